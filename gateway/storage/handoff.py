"""
Handoff: pieces that one task gives to another, one at a time.

A library that pulls an upload from an iterator is cancelled badly: it drops what it
does, and with it the chance to clean up. So the iterator is served by a handoff, and
who wants to stop tells it to raise: that is an end which the library handles.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any


class Abandoned(Exception):
    """The giver has no more, and what it gave is worth nothing."""


class Handoff:
    """Give, then `finish` or `abandon`; the taker iterates over it."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes | Abandoned | None] = asyncio.Queue(1)
        self._taker: asyncio.Future[Any] | None = None

    def is_taken_by(self, taker: asyncio.Future[Any]) -> None:
        """Name the taker, so that its failure reaches the giver."""
        self._taker = taker
        # A giver that waits for room would wait for ever.
        taker.add_done_callback(lambda _: self._make_room())

    def _make_room(self) -> None:
        if not self._waiting.empty():
            self._waiting.get_nowait()

    async def give(self, piece: bytes) -> None:
        """Wait until the piece before is taken; raises what the taker failed with."""
        await self._waiting.put(piece)
        if self._taker is not None and self._taker.done():
            self._taker.result()

    async def finish(self) -> None:
        await self._waiting.put(None)

    def abandon(self) -> None:
        """End the taker's iteration with `Abandoned`, without waiting."""
        self._make_room()
        self._waiting.put_nowait(Abandoned())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        taken = await self._waiting.get()
        if taken is None:
            raise StopAsyncIteration
        if isinstance(taken, Abandoned):
            raise taken
        return taken
