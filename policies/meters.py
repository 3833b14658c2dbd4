"""
What one workspace has used of one limit, in memory.

A meter outlives the limit it was made for: a changed plan re-labels it and the usage
stays. What is charged is charged to an account, and refunded to the same one.
"""

from __future__ import annotations

from copy import copy
from typing import Final, TypeAlias

from policies import gcra
from policies.gcra import Pace
from policies.ledger import LimitState
from policies.plans import Quota, Rate
from policies.windows import window_at

# Longer than any wait, so that the longest wait of several is found by comparing.
NEVER_MS: Final = 2**62


class RateMeter:
    """A bucket, which is its own account: it has no window that could end."""

    __slots__ = ("counts_tokens", "limit", "pace", "tat")

    def __init__(self, limit: Rate) -> None:
        self.limit = limit
        self.counts_tokens = limit.of == "tokens"
        self.pace: Pace = gcra.pace_of(limit)
        self.tat = 0

    def copy(self) -> RateMeter:
        return copy(self)

    def follow(self, limit: Rate, now_us: int) -> None:
        """Count on under another limit of the same dimension."""
        pace = gcra.pace_of(limit)
        self.tat = gcra.convert(self.tat, now_us, self.pace, pace)
        self.limit, self.pace = limit, pace

    def wait_ms(self, units: int, now_us: int) -> int:
        """How long until this would fit: 0 is now."""
        if units == 0:
            # Whoever asks nothing of a limit is not refused by it, even overdrawn.
            return 0
        missing = gcra.missing_ticks(self.pace, self.tat, now_us, units)
        if missing <= 0:
            return 0
        if units > self.limit.capacity:
            return NEVER_MS
        return gcra.ticks_to_ms(self.pace, missing)

    def charge(self, units: int, now_us: int) -> RateMeter:
        self.tat = gcra.charge(self.pace, self.tat, now_us, units)
        return self

    def adjust(self, units: int, now_us: int) -> None:
        """Top up by this many units, or refund where negative."""
        if units > 0:
            self.tat = gcra.charge(self.pace, self.tat, now_us, units)
        else:
            self.tat = gcra.refund(self.pace, self.tat, now_us, -units)

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting this meter."""
        return -(-self.tat // self.pace.ticks_per_us)

    def state(self, now_us: int) -> LimitState:
        return LimitState(
            limit=self.limit,
            capacity=self.limit.capacity,
            used=gcra.used_units(self.pace, self.tat, now_us),
            reset_after_ms=gcra.reset_after_ms(self.pace, self.tat, now_us),
        )


class Tally:
    """
    The account of one calendar window.

    A lease keeps the tally it was charged to, so what it settles after the window's end
    reaches a tally nobody looks at any more.
    """

    __slots__ = ("counts_tokens", "end_us", "used")

    def __init__(self, limit: Quota, now_us: int) -> None:
        self.counts_tokens = limit.of == "tokens"
        self.end_us = window_at(limit.per, now_us // gcra.US_PER_MS).end_ms * 1000
        self.used = 0

    def adjust(self, units: int, now_us: int) -> None:
        """Top up by this many units, or refund where negative."""
        self.used = max(0, self.used + units)


class QuotaMeter:
    """A budget, with the tally of the window that is running."""

    __slots__ = ("counts_tokens", "limit", "tally")

    def __init__(self, limit: Quota, now_us: int) -> None:
        self.limit = limit
        self.counts_tokens = limit.of == "tokens"
        self.tally = Tally(limit, now_us)

    def copy(self) -> QuotaMeter:
        copied = copy(self)
        copied.tally = copy(self.tally)
        return copied

    def follow(self, limit: Quota, now_us: int) -> None:
        """Count on under another limit of the same dimension."""
        self.limit = limit

    def wait_ms(self, units: int, now_us: int) -> int:
        """How long until this would fit: 0 is now."""
        if units == 0:
            return 0
        tally = self._running_tally(now_us)
        if tally.used + units <= self.limit.limit:
            return 0
        if units > self.limit.limit:
            return NEVER_MS
        return _ms_until(tally.end_us, now_us)

    def charge(self, units: int, now_us: int) -> Tally:
        tally = self._running_tally(now_us)
        tally.used += units
        return tally

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting this meter."""
        return self.tally.end_us if self.tally.used else 0

    def state(self, now_us: int) -> LimitState:
        tally = self._running_tally(now_us)
        return LimitState(
            limit=self.limit,
            capacity=self.limit.limit,
            used=tally.used,
            reset_after_ms=_ms_until(tally.end_us, now_us),
        )

    def _running_tally(self, now_us: int) -> Tally:
        if now_us >= self.tally.end_us:
            self.tally = Tally(self.limit, now_us)
        return self.tally


Meter: TypeAlias = RateMeter | QuotaMeter
Account: TypeAlias = RateMeter | Tally


def _ms_until(instant_us: int, now_us: int) -> int:
    return -(-(instant_us - now_us) // gcra.US_PER_MS)
