"""
What is known of the store's state: fed by every call, waited on by the background.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from policies.outage.breaker import Breaker
from policies.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

# What a recovery adds to its probe, in the wait that clients are told.
RECOVERY_MS: Final = 100
# What was away for some time is likely to stay away for as long again. Fail-overs take
# seconds, and an SDK asks three times in all: told less than two seconds each time, it
# has given up before most are over. More than thirty keep clients away from a store
# that is back.
AWAY_FIRST_MS: Final = 2_000
AWAY_LAST_MS: Final = 30_000
# Of these a store is away for whoever has to write.
_READABLE: Final = frozenset({"memory", "refused", "replica", "cluster"})
# Data that is not ours, or a bug, fails every call of its workspace: the log is told of
# it once in this time.
ERROR_TOLD_EVERY_US: Final = 60 * 1_000_000
# A single failure is over as soon as a connection is made.
RETRY_MS: Final = 250


# The ledger's calls that requests make, or make for them.
Call: TypeAlias = Literal["admit", "renew", "settle"]
# Hears of a call that was answered, and after how many seconds. Of both in one, so
# that the `append` of a list hears it as it is.
Answered: TypeAlias = Callable[[tuple[Call, float]], None]


def ignore_answer(answered: tuple[Call, float]) -> None:
    """Nobody wants to know."""


class StoreHealth:
    """The breaker, with those who wait for it to open or to close."""

    def __init__(
        self,
        clock_us: Callable[[], int],
        breaker: Breaker,
        answered: Answered = ignore_answer,
    ) -> None:
        self._clock_us = clock_us
        self._answered = answered
        self.breaker = breaker
        # Failed calls by reason, the background's included.
        self.errors: Counter[str] = Counter()
        self.next_probe_us = 0
        self._was_full = False
        self._error_told_us = -ERROR_TOLD_EVERY_US
        self._opened = asyncio.Event()
        self._closed = asyncio.Event()
        self._closed.set()
        # Set while settlements are worth sending.
        self._takes_settlements = asyncio.Event()
        self._takes_settlements.set()

    @property
    def is_closed(self) -> bool:
        return self.breaker.is_closed

    @property
    def is_exact(self) -> bool:
        """Whether decisions are the store's own; never before it was heard once."""
        return self.breaker.is_closed and self.breaker.was_heard

    @property
    def is_readable(self) -> bool:
        """Whether a look-up is likely to be answered: what cannot be written may be."""
        return self.breaker.is_closed or self.breaker.reason in _READABLE

    @property
    def reason(self) -> str:
        """Why decisions are not exact; empty while they are."""
        if self.is_exact:
            return ""
        return "not heard yet" if self.is_closed else self.breaker.reason

    def failed(self, error: StoreUnavailable, *, asked_us: int) -> None:
        """Note that a call failed."""
        self.errors[error.reason] += 1
        now_us = self._clock_us()
        if not error.is_outage:
            self._tell_of_error(error, now_us)
            return
        self._was_full = error.reason == "memory"
        if self.breaker.fail(error.reason, asked_us=asked_us, now_us=now_us):
            self._closed.clear()
            self._opened.set()
            self._look_at_reason()
            logger.error(
                "the store is away, each replica decides by its share",
                extra={"facts": {"reason": error.reason, "detail": error.detail}},
            )

    def _tell_of_error(self, error: StoreUnavailable, now_us: int) -> None:
        if now_us >= self._error_told_us + ERROR_TOLD_EVERY_US:
            self._error_told_us = now_us
            facts = {"detail": error.detail}
            logger.error("the store refuses a call", extra={"facts": facts})

    def succeeded(
        self, *, asked_us: int, call: Call | None = None, needs_memory: bool = True
    ) -> None:
        """Note a reply; renewals and settlements pass where memory is full."""
        if call is not None:
            self._answered((call, (self._clock_us() - asked_us) / 1e6))
        if self._was_full and not needs_memory:
            return  # it says nothing of the admissions, which do not
        self._was_full = False
        self.breaker.succeed(asked_us=asked_us)

    def begin_recovery(self) -> None:
        self.breaker.begin_recovery()

    def fail_recovery(self, reason: str) -> None:
        self.errors[reason] += 1
        self.breaker.fail_recovery(reason)
        self._look_at_reason()

    def close(self) -> int:
        """Trust the store again; for how many microseconds it was away."""
        away_us = self.breaker.close(self._clock_us())
        self._opened.clear()
        self._closed.set()
        self._look_at_reason()
        return away_us

    def _look_at_reason(self) -> None:
        # A full store takes settlements, which are what makes room in it.
        if self.breaker.is_closed or self.breaker.reason == "memory":
            self._takes_settlements.set()
        else:
            self._takes_settlements.clear()

    def wait_ms(self) -> int:
        """When it is worth asking again what needs the store."""
        if self.is_closed:
            return RETRY_MS
        now_us = self._clock_us()
        away_ms = self.breaker.open_for_us(now_us) // 1000
        probed_ms = max(0, self.next_probe_us - now_us) // 1000 + RECOVERY_MS
        return max(probed_ms, min(max(away_ms, AWAY_FIRST_MS), AWAY_LAST_MS))

    async def wait_opened(self) -> None:
        await self._opened.wait()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    async def wait_for_settlements(self) -> None:
        """Until they are worth sending."""
        await self._takes_settlements.wait()
