"""
Work that nobody waits for, in pieces so small that nobody who waits notices.

One process runs its requests and its batches in one event loop. A piece of half a
millisecond is below what a request's own turns take; after it, whoever works in the
background stays away for nine times as long, unless no request came lately.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Self

# At twice as much a chat's 99th percentile shows it; at half, turns cost more than
# what is done in them.
PIECE_S: Final = 0.0005
# Of a core, while requests come.
BUSY_SHARE: Final = 0.1
# Without a request for so long, nobody is kept waiting.
QUIET_AFTER_S: Final = 1.0


class Pace:
    """Shared by everything in the background of a process; one works at a time."""

    def __init__(self, requests_total: Callable[[], int] = lambda: 0) -> None:
        """`requests_total` counts the requests that have come."""
        self._requests_total = requests_total
        self._seen = 0
        self._seen_s = -QUIET_AFTER_S
        self._lock = asyncio.Lock()
        self._began_s = 0.0

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._began_s = time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._rest(time.perf_counter() - self._began_s)
        finally:
            self._lock.release()

    async def turn(self) -> None:
        """Let others in, if this piece was long enough."""
        took_s = time.perf_counter() - self._began_s
        if took_s >= PIECE_S:
            await self._rest(took_s)
            self._began_s = time.perf_counter()

    async def _rest(self, took_s: float) -> None:
        await asyncio.sleep(took_s * (1 / BUSY_SHARE - 1) if self._is_busy() else 0)

    def _is_busy(self) -> bool:
        now_s, total = time.perf_counter(), self._requests_total()
        if total != self._seen:
            self._seen, self._seen_s = total, now_s
        return now_s - self._seen_s < QUIET_AFTER_S
