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
from gateway.errors import ClientGone, Overloaded, ShuttingDown

End: TypeAlias = Literal["client_gone", "shutting_down"]
# Does what is due and says after how many seconds it wants to be asked again.
Tick: TypeAlias = Callable[[], Awaitable[float]]


class Attendance:
    """Every authenticated request in flight, bounded, so that all can be ended."""

    def __init__(self, max_present: int) -> None:
        self._max_present = max_present
        self._present: set[Presence] = set()
        # From the end of draining on: what is cancelled now, we cancelled.
        self.is_over = False

    def __len__(self) -> int:
        return len(self._present)

    def add(self, presence: Presence) -> None:
        """Overloaded if this replica already has as many as it may."""
        if len(self._present) >= self._max_present:
            raise Overloaded("This replica is at its limit.", retry_after_ms=1000)
        if self.is_over:
            raise shutting_down()
        self._present.add(presence)

    def remove(self, presence: Presence) -> None:
        self._present.discard(presence)

    def end_all(self) -> None:
        """End what still runs: the deadline for draining has passed."""
        self.is_over = True
        for presence in list(self._present):
            presence.end("shutting_down")


class Presence:
    """
    Cancels its block when the client leaves or the replica shuts down.

    Leaving the block then raises ClientGone or ShuttingDown in place of the
    cancellation, so that what the block held has been given back when anyone hears of
    it. Until `listen` is called whoever reads the request's body hears of the client.
    """

    def __init__(self, receive: Receive, attendance: Attendance) -> None:
        self._receive = receive
        self._attendance = attendance
        self._scope = anyio.CancelScope()
        self._listener: asyncio.Task[None] | None = None
        self._end: End | None = None
        self._tick: Tick | None = None
        # None waits for ever: whole answers have nothing to do meanwhile.
        self._ticks_in_s: float | None = None

    async def __aenter__(self) -> Self:
        self._attendance.add(self)
        self._scope.__enter__()
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
            raise ClientGone if self._end == "client_gone" else shutting_down()
        return is_swallowed

    @property
    def is_shutting_down(self) -> bool:
        """Whether it is us who ended it."""
        return self._end == "shutting_down"

    def end(self, end: End) -> None:
        """Cancel the block; the first reason is the one that counts."""
        if self._end is None:
            self._end = end
            self._scope.cancel()

    def listen(self) -> None:
        """The body has been read: from now on hear whether the client leaves."""
        self._stop_listening()
        self._listener = asyncio.create_task(self._listen())

    def tick(self, tick: Tick, *, first_in_s: float) -> None:
        """Call `tick` beside the block, from now on."""
        self._tick, self._ticks_in_s = tick, first_in_s
        # The listener may wait without an end: it has to begin again to mind the clock.
        self.listen()

    def conclude(self) -> None:
        """
        Only the last bytes are left to send: nobody may end this any more.

        A finished response reads as a disconnect, which must not count as one.
        """
        self._stop_listening()
        self._attendance.remove(self)

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


def shutting_down() -> ShuttingDown:
    return ShuttingDown("The gateway is shutting down; send the request again.")
