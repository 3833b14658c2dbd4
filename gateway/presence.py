"""
Whether anybody still wants the answer: runs a block only as long as somebody does.

The server tells of a client that leaves, and a timer breaks a stream's long silences:
no task beside the request's own, which would cost 30 us a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self, TypeAlias

from gateway.errors import ClientGone, Overloaded, ShuttingDown
from gateway.wire import Wire

End: TypeAlias = Literal["client_gone", "shutting_down"]
# For how many seconds more a block may run whose client has left; then asked again.
RunOn: TypeAlias = Callable[[], float]
# Does what is due and says after how many seconds it wants to be asked again.
Tick: TypeAlias = Callable[[], float]


class Attendance:
    """Every authenticated request in flight, bounded, so that all can be ended."""

    def __init__(self, max_present: int) -> None:
        self._max_present = max_present
        self._present: set[Presence] = set()
        # For who wants to know whether somebody comes at all.
        self.added_total = 0
        # From the end of draining on: what is cancelled now, we cancelled.
        self.is_over = False

    def __len__(self) -> int:
        return len(self._present)

    def add(self, presence: Presence, *, is_known: bool = False) -> None:
        """
        Overloaded if this replica already has as many as it may.

        `is_known` is one that was counted until now, and has not gone since.
        """
        if len(self._present) >= self._max_present and not is_known:
            raise Overloaded("This replica is at its limit.", retry_after_ms=1000)
        if self.is_over:
            raise shutting_down()
        self._present.add(presence)
        self.added_total += 1

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

    Cancels as `asyncio.timeout` does, by the task's count of cancellations, so that one
    from elsewhere at the same time is not swallowed.
    """

    __slots__ = (
        "_attendance",
        "_cancelling_before",
        "_end",
        "_is_known",
        "_leaving",
        "_run_on",
        "_task",
        "_timer",
        "_wire",
    )

    def __init__(
        self, wire: Wire, attendance: Attendance, *, is_known: bool = False
    ) -> None:
        """`is_known`: it only goes on, and is not refused a place."""
        self._is_known = is_known
        self._wire = wire
        self._attendance = attendance
        self._task: asyncio.Task[object] | None = None
        self._cancelling_before = 0
        self._end: End | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._run_on: RunOn | None = None
        self._leaving: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._attendance.add(self, is_known=self._is_known)
        task = self._task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine's block runs in one
        self._cancelling_before = task.cancelling()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.conclude()
        task, self._task = self._task, None
        if self._end is None or task is None:
            return
        is_ours = task.uncancel() <= self._cancelling_before
        # Not in place of an error of the block's own, nor of another's cancellation.
        if error is None or (is_ours and kind is asyncio.CancelledError):
            raise ClientGone if self._end == "client_gone" else shutting_down()

    @property
    def is_shutting_down(self) -> bool:
        """Whether it is us who ended it."""
        return self._end == "shutting_down"

    def end(self, end: End) -> None:
        """
        Cancel the block, which waits for something; the first reason counts.

        Never from within it: a task that cancels itself meets that at its next wait,
        which may be after the block.
        """
        if self._end is None and self._task is not None:
            self._end = end
            self._task.cancel()

    def listen(self) -> None:
        """The body has been read: from now on hear whether the client leaves."""
        if self._wire.is_gone:
            # Not by a cancellation, which this running task would meet only later.
            raise ClientGone
        self._wire.when_gone(self._client_has_left)

    def tick(self, tick: Tick, *, first_in_s: float) -> None:
        """Call `tick` beside the block, from now on until it is concluded."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(first_in_s, self._on_time, tick)

    def _on_time(self, tick: Tick) -> None:
        self.tick(tick, first_in_s=tick())

    def conclude(self) -> None:
        """
        Only the last bytes are left to send: nobody may end this any more.

        A finished response reads as a disconnect, which must not count as one.
        """
        self._wire.when_gone(None)
        self.stop_ticking()
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        self._attendance.remove(self)

    def stop_ticking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def outlive_client(self, run_on: RunOn) -> None:
        """From now on its client may leave: it is ended only when `run_on` says 0."""
        self._run_on = run_on
        if self._wire.is_gone:
            self._client_has_left()

    def _client_has_left(self) -> None:
        left_s = 0.0 if self._run_on is None else self._run_on()
        if left_s > 0:
            loop = asyncio.get_running_loop()
            self._leaving = loop.call_later(left_s, self._client_has_left)
        else:
            self.end("client_gone")


def shutting_down() -> ShuttingDown:
    return ShuttingDown("The gateway is shutting down; send the request again.")
