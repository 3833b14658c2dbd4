"""
The arithmetic of rates: GCRA, the generic cell rate algorithm, in exact integers.

A bucket is one number, its theoretical arrival time (TAT): the instant at which it
will be full again. What is used is the way from now to there; spending moves the TAT
forward, a refund moves it back, the passing of time refills.

The TAT is counted in ticks of 1/limit microseconds, so that both a microsecond and a
unit are whole: a microsecond is `limit` ticks and a unit is the period's microseconds.
Nothing is ever rounded, so 7 a minute admits 7 at once and then one every 60/7 s, for
ever; and a debt in ticks is the same number at every limit of one period, so a plan
change keeps it to the tick. A ledger whose numbers have 53 bits keeps the same TAT as
divmod(tat, limit), which loses nothing.

Counting reservations at once and refunding later keeps this true: since the bucket was
last full, what was really used never exceeds its capacity plus the refill.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from policies.plans import Rate

US_PER_S: Final = 1_000_000
US_PER_MS: Final = 1000

# 71 years: no wait is longer, and an instant that far ahead still has 53 bits.
MAX_DEBT_US: Final = 2**51


class Pace(msgspec.Struct, frozen=True):
    """A rate in the integers its bucket is counted in."""

    ticks_per_us: int
    ticks_per_unit: int
    capacity_ticks: int


# As many as there are rates in use, and hashing one is cheaper than making it.
@lru_cache(maxsize=1024)
def pace_of(rate: Rate) -> Pace:
    """The tick lengths of a rate and the size of its bucket in them."""
    period_us = rate.period_s * US_PER_S
    return Pace(rate.limit, period_us, rate.capacity * period_us)


def missing_ticks(pace: Pace, tat: int, now_us: int, units: int) -> int:
    """By how much spending this would overdraw the bucket; 0 or less fits."""
    now = now_us * pace.ticks_per_us
    debt = tat - now if tat > now else 0
    return debt + units * pace.ticks_per_unit - pace.capacity_ticks


def charge(pace: Pace, tat: int, now_us: int, units: int) -> int:
    """The TAT after spending, even where it overdraws: a top-up cannot be refused."""
    charged = max(tat, now_us * pace.ticks_per_us) + units * pace.ticks_per_unit
    return min(charged, (now_us + MAX_DEBT_US) * pace.ticks_per_us)


def refund(pace: Pace, tat: int, now_us: int, units: int) -> int:
    """The TAT after giving back; what refilled meanwhile is not given back twice."""
    return max(tat - units * pace.ticks_per_unit, now_us * pace.ticks_per_us)


def standing(pace: Pace, tat: int, now_us: int) -> tuple[int, int]:
    """
    What is missing from a full bucket, and in how many milliseconds nothing will be.

    A unit begun counts as used. Both at once, since each decision wants both.
    """
    debt = tat - now_us * pace.ticks_per_us
    if debt <= 0:
        return 0, 0
    return -(-debt // pace.ticks_per_unit), -(-debt // (pace.ticks_per_us * US_PER_MS))


def ticks_to_ms(pace: Pace, ticks: int) -> int:
    """Rounded up: who waits for this long has waited long enough."""
    return -(-ticks // (pace.ticks_per_us * US_PER_MS))


def convert(tat: int, now_us: int, old: Pace, new: Pace) -> int:
    """The TAT at a new pace with the same units used, as when a plan changes."""
    debt = tat - now_us * old.ticks_per_us
    if debt <= 0:
        # Full since then, which a charge of the past wants to know.
        return tat // old.ticks_per_us * new.ticks_per_us
    return now_us * new.ticks_per_us + min(debt, MAX_DEBT_US * new.ticks_per_us)
