"""
How long an upstream call may take, stage by stage and in all.

All attempts of one call share one `Deadline`. The clock is the event loop's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from gateway.errors import UpstreamTimeout
from gateway.settings import Settings


class Timeouts(msgspec.Struct, frozen=True):
    """The bounds of one call, in seconds."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float

    @classmethod
    def of(cls, settings: Settings) -> Timeouts:
        return cls(
            settings.upstream_connect_timeout_s,
            settings.upstream_first_byte_timeout_s,
            settings.upstream_idle_timeout_s,
            settings.upstream_total_timeout_s,
        )


class Deadline:
    """The end of one call's time, and of each stage's within it."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        # On the event loop's clock.
        self.ends_at_s = asyncio.get_running_loop().time() + timeouts.total_s

    @property
    def left_s(self) -> float:
        return self.ends_at_s - asyncio.get_running_loop().time()

    @asynccontextmanager
    async def within(self, stage_s: float, missed: str) -> AsyncIterator[None]:
        """Run a stage; UpstreamTimeout naming what was missed if it takes too long."""
        by_s = asyncio.get_running_loop().time() + stage_s
        try:
            async with asyncio.timeout_at(min(by_s, self.ends_at_s)):
                yield
        except TimeoutError:
            raise self.overdue(by_s, stage_s, missed) from None

    def overdue(self, by_s: float, stage_s: float, missed: str) -> UpstreamTimeout:
        """What is told of a stage that had to be over by then; the first clock's."""
        if self.ends_at_s < by_s:
            return UpstreamTimeout(
                f"The upstream took longer than {self.timeouts.total_s:g} s."
            )
        return UpstreamTimeout(f"The upstream {missed} within {stage_s:g} s.")
