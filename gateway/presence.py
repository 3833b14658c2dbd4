"""
Whether anybody still wants the answer: runs a block only as long as somebody does.

One task beside the request's own listens for the client's leaving and, for streams,
breaks long silences. It costs nothing per event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias

import anyio

from gateway.asgi import Receive
from gateway.errors import ClientGone, ShuttingDown

End: TypeAlias = Literal["client_gone", "shutting_down"]
# Does what is due and says after how many seconds it wants to be asked again.
Tick: TypeAlias = Callable[[], Awaitable[float]]


class Attendance:
    """Every request in flight, so that shutting down can end them all."""

    def __init__(self) -> None:
        self._present: set[Presence] = set()

    def __len__(self) -> int:
        return len(self._present)

    def add(self, presence: Presence) -> None:
        self._present.add(presence)

    def remove(self, presence: Presence) -> None:
        self._present.discard(presence)

    def end_all(self) -> None:
        """End what still runs: the deadline for draining has passed."""
        for presence in list(self._present):
            presence.end("shutting_down")


class Presence:
    """
    Cancels its block when the client leaves or the replica shuts down.

    Leaving the block then raises ClientGone or ShuttingDown in place of the
    cancellation, so that what the block held has been given back when anyone hears of
    it.
    """

    def __init__(self, receive: Receive, attendance: Attendance) -> None:
        self._receive = receive
        self._attendance = attendance
        self._scope = anyio.CancelScope()
        self._listener: asyncio.Task[None] | None = None
        self._end: End | None = None
        self._tick: Tick | None = None
        self._ticks_in_s: float | None = None

    async def __aenter__(self) -> Self:
        self._attendance.add(self)
        self._scope.__enter__()
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        self._attendance.remove(self)
        self._stop_listening()
        is_swallowed = self._scope.__exit__(kind, error, traceback)
        # Not in place of an error of the block's own, nor of another's cancellation.
        if self._end is not None and (error is None or is_swallowed):
            raise _error_of(self._end) from None
        return is_swallowed

    def end(self, end: End) -> None:
        """Cancel the block; the first reason is the one that counts."""
        if self._end is None:
            self._end = end
            self._scope.cancel()

    def tick(self, tick: Tick, *, first_in_s: float) -> None:
        """Call `tick` beside the block, from now on."""
        self._tick, self._ticks_in_s = tick, first_in_s
        # The listener waits without an end: it has to begin again to mind the clock.
        self._stop_listening()
        self._listener = asyncio.create_task(self._listen())

    def conclude(self) -> None:
        """
        Only the last bytes are left to send: the client may now leave as it likes.

        A finished response reads as a disconnect, which must not count as one.
        """
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None

    async def _listen(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._ticks_in_s):
                    message = await self._receive()
            except TimeoutError:
                if not await self._tick_once():
                    return
                continue
            if message["type"] == "http.disconnect":
                self.end("client_gone")
                return

    async def _tick_once(self) -> bool:
        """Do what is due beside the block; False if it found the client gone."""
        if self._tick is None:
            return True
        try:
            self._ticks_in_s = await self._tick()
        except ClientGone:
            self.end("client_gone")
            return False
        return True


def _error_of(end: End) -> Exception:
    if end == "client_gone":
        return ClientGone()
    return ShuttingDown("The gateway is shutting down; send the request again.")
