"""
What one workspace, or one key of it, has used of one limit, in memory.

A meter outlives the limit it was made for: a changed plan re-labels it and the usage
stays. What is charged is charged to an account, and refunded to the same one.
"""

from __future__ import annotations

from copy import copy
from typing import Final, TypeAlias

from policies import gcra
from policies.gcra import Pace
from policies.ledger import Usage
from policies.plans import Concurrency, Limit, Quota, Rate
from policies.windows import window_at

# Longer than any wait, so that the longest wait of several is found by comparing.
NEVER_MS: Final = 2**62
# Nobody knows when a lease ends: of several violated limits any other binds longer.
UNKNOWN_MS: Final = 0

# Sums stay exact in the 53 bits a Lua number has, whatever upstreams report.
MAX_COUNTED: Final = 2**52


def units_of(limit: Limit, usage: Usage) -> int:
    """What a limit counts of a usage; a request takes one place."""
    if isinstance(limit, Concurrency):
        return 1
    return usage.tokens if limit.of == "tokens" else usage.requests


class RateMeter:
    """A bucket, which is its own account: it has no window that could end."""

    __slots__ = ("limit", "pace", "tat")

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.pace: Pace = gcra.pace_of(limit)
        self.tat = 0

    def follow(self, limit: Limit, now_us: int) -> None:
        """Count on under another limit of the same dimension."""
        assert isinstance(limit, Rate)  # noqa: S101 - what the dimension is of
        pace = gcra.pace_of(limit)
        self.tat = gcra.convert(self.tat, now_us, self.pace, pace)
        self.limit, self.pace = limit, pace

    def fits(self, units: int, now_us: int) -> bool:
        # Whoever asks nothing of a limit is not refused by it, even overdrawn.
        return units == 0 or gcra.missing_ticks(self.pace, self.tat, now_us, units) <= 0

    def charge(self, units: int, now_us: int) -> RateMeter:
        self.adjust(units, now_us)
        return self

    def adjust(self, units: int, now_us: int) -> None:
        """Top up by this many units, or refund where negative."""
        if units > 0:
            self.tat = gcra.charge(self.pace, self.tat, now_us, units)
        elif units < 0:
            self.tat = gcra.refund(self.pace, self.tat, now_us, -units)

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting this meter."""
        return -(-self.tat // self.pace.ticks_per_us)

    def standing(self, now_us: int) -> tuple[int, int]:
        """The units used, and in how many milliseconds none will be."""
        return gcra.standing(self.pace, self.tat, now_us)

    def load(self, debt_us: int, rest: int, now_us: int) -> None:
        """Stand where a ledger elsewhere says it stood at this instant."""
        self.tat = (now_us + debt_us) * self.pace.ticks_per_us + rest

    def wait_ms(self, units: int, now_us: int) -> int:
        """How long until what does not fit now would."""
        if units > self.limit.capacity:
            return NEVER_MS
        missing = gcra.missing_ticks(self.pace, self.tat, now_us, units)
        return gcra.ticks_to_ms(self.pace, missing)


class Tally:
    """
    The account of one calendar window.

    A lease keeps the tally it was charged to, so what it settles after the window's end
    reaches a tally nobody looks at any more.
    """

    __slots__ = ("end_us", "limit", "start_us", "used")

    def __init__(self, limit: Quota, now_us: int) -> None:
        self.limit = limit
        window = window_at(limit.per, now_us // gcra.US_PER_MS)
        self.start_us, self.end_us = window.start_ms * 1000, window.end_ms * 1000
        self.used = 0

    def adjust(self, units: int, now_us: int) -> None:
        """Top up by this many units, or refund where negative."""
        used = self.used + units
        used = max(used, 0)
        self.used = used if used < MAX_COUNTED else MAX_COUNTED


class QuotaMeter:
    """A budget, with the tally of the window that is running."""

    __slots__ = ("limit", "tally")

    def __init__(self, limit: Quota, now_us: int) -> None:
        self.limit = limit
        self.tally = Tally(limit, now_us)

    def copy(self) -> QuotaMeter:
        copied = copy(self)
        copied.tally = copy(self.tally)
        return copied

    def follow(self, limit: Limit, now_us: int) -> None:
        """Count on under another limit of the same dimension."""
        assert isinstance(limit, Quota)  # noqa: S101 - what the dimension is of
        self.limit = limit

    def fits(self, units: int, now_us: int) -> bool:
        if units == 0:
            return True
        return self._running_tally(now_us).used + units <= self.limit.limit

    def charge(self, units: int, now_us: int) -> Tally:
        """Charge the window of that instant, which may be one that has ended."""
        is_past = now_us < self.tally.start_us
        tally = Tally(self.limit, now_us) if is_past else self._running_tally(now_us)
        if not is_past:
            self.tally = tally
        tally.adjust(units, now_us)
        return tally

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting this meter."""
        return self.tally.end_us if self.tally.used else 0

    def standing(self, now_us: int) -> tuple[int, int]:
        """The units used, and in how many milliseconds none will be."""
        tally = self._running_tally(now_us)
        return tally.used, -(-(tally.end_us - now_us) // gcra.US_PER_MS)

    def load(self, used: int, rest: int, now_us: int) -> None:
        """Stand where a ledger elsewhere says it stood at this instant."""
        # Its clock may be another server's by now, and step back over a boundary.
        if not self.tally.start_us <= now_us < self.tally.end_us:
            self.tally = Tally(self.limit, now_us)
        self.tally.used = used

    def wait_ms(self, units: int, now_us: int) -> int:
        """How long until what does not fit now would."""
        return NEVER_MS if units > self.limit.limit else self.standing(now_us)[1]

    def _running_tally(self, now_us: int) -> Tally:
        # Not kept: a look leaves no trace, and a clock may step back over the boundary.
        is_over = now_us >= self.tally.end_us
        return Tally(self.limit, now_us) if is_over else self.tally


Meter: TypeAlias = RateMeter | QuotaMeter
Account: TypeAlias = RateMeter | Tally


def new_meter(limit: Rate | Quota, now_us: int) -> Meter:
    return RateMeter(limit) if isinstance(limit, Rate) else QuotaMeter(limit, now_us)


def copy_of(meter: Meter) -> Meter:
    return copy(meter) if isinstance(meter, RateMeter) else meter.copy()
