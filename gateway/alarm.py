"""A clock for waits that are many and seldom too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """
    Rings when what is waited for is overdue.

    Its timer is not moved for each wait, which costs 5 us, but looks again when it was
    too early: about one timer for each time-out, however many waits there are in it.
    """

    __slots__ = ("_at_s", "_due_s", "_grace_s", "_is_grace", "_loop", "_ring", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        due_s: Callable[[], float | None],
        ring: Callable[[], None],
        *,
        grace_s: float = 0.0,
    ) -> None:
        """
        `due_s` says on the loop's clock until when may be waited, None if nothing is.

        After it, `grace_s` is what may still be on its way through our own event loop:
        one that stood still has not looked at its sockets yet.
        """
        self._loop = loop
        self._due_s = due_s
        self._ring = ring
        self._grace_s = grace_s
        self._timer: asyncio.TimerHandle | None = None
        self._at_s = 0.0
        self._is_grace = False

    def set(self, due_s: float) -> None:
        """Something is waited for until then at most."""
        if self._timer is None or self._at_s > due_s:
            self._set_timer(due_s, is_grace=False)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, at_s: float, *, is_grace: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Noted here: for less than a millisecond uvloop's handles do not know it.
        self._at_s, self._is_grace = at_s, is_grace
        self._timer = self._loop.call_at(at_s, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        due_s = self._due_s()
        if due_s is None:
            return  # the next wait sets it anew
        now_s = self._loop.time()
        if now_s < due_s:
            self._set_timer(due_s, is_grace=False)
        elif self._grace_s and not self._is_grace:
            self._set_timer(now_s + self._grace_s, is_grace=True)
        else:
            self._ring()
