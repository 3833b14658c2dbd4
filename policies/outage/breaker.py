"""
When to stop asking a store that does not answer, and when to trust it again.

A state machine without I/O and without a clock: what happened, and when, is told to it.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

BreakerState: TypeAlias = Literal[
    "closed",  # the store is asked
    "open",  # it is left alone, but for a probe
    "recovering",  # a probe was answered; what was missed is being made up for
]

# A dropped connection is one failure and no outage. At double, a dead store costs every
# caller of six time-outs a wait; at one, each fail-over of a moment is an outage.
FAILURES_TO_OPEN: Final = 3


class Breaker:
    """
    Counts failures that follow one another, time-outs like any other.

    Calls that fail together are one failure: of those asked before the last one that
    counted, none says anything new. So a pipe lost with a hundred calls in it does not
    open the breaker, and a store that is silent does after three time-outs.
    """

    def __init__(self, failures_to_open: int = FAILURES_TO_OPEN) -> None:
        self._failures_to_open = failures_to_open
        self._failures = 0
        self._failed_us = 0
        self._opened_us = 0
        self._open_before_us = 0
        self._become("closed")
        # Why it opened last; empty if it never did.
        self.reason = ""
        self.opened_total = 0
        # Whether the store was ever heard: before that nothing decided is exact.
        self.was_heard = False

    def _become(self, state: BreakerState) -> None:
        self.state: BreakerState = state
        # Asked by every call, and so no property.
        self.is_closed = state == "closed"

    def fail(self, reason: str, *, asked_us: int, now_us: int) -> bool:
        """Note a call that failed; True if that opened the breaker."""
        if self.state != "closed" or asked_us < self._failed_us:
            return False
        self._failures += 1
        self._failed_us = now_us
        if self._failures < self._failures_to_open:
            return False
        self._become("open")
        self.reason = reason
        self._opened_us = now_us
        self.opened_total += 1
        return True

    def succeed(self, *, asked_us: int) -> None:
        """Note a reply; one to an older question than the last failure's is stale."""
        self.was_heard = True
        if asked_us >= self._failed_us:
            self._failures = 0

    def begin_recovery(self) -> None:
        """A probe was answered."""
        if self.state == "open":
            self._become("recovering")

    def fail_recovery(self, reason: str) -> None:
        """What was missed could not be made up for: wait for the next probe."""
        if self.state == "recovering":
            self._become("open")
            self.reason = reason

    def close(self, now_us: int) -> int:
        """Trust the store again; for how many microseconds it was away."""
        if self.state != "recovering":
            raise ValueError("only a recovery closes the breaker")
        self._become("closed")
        self.was_heard = True
        self._failures = 0
        # Calls asked before now and still under way say nothing of the store returned.
        self._failed_us = now_us
        away_us = now_us - self._opened_us
        self._open_before_us += away_us
        return away_us

    def open_for_us(self, now_us: int) -> int:
        """How long this outage has lasted; 0 while closed."""
        return 0 if self.is_closed else now_us - self._opened_us

    def degraded_us(self, now_us: int) -> int:
        """How long it was not closed, in all outages together."""
        return self._open_before_us + self.open_for_us(now_us)
