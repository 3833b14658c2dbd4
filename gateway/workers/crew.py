"""
Which worker stands in which slot, and when a slot that lost its own gets another.

Decisions only: time is passed in, and nothing is forked or killed here.
"""

from __future__ import annotations

from typing import Final

from gateway.workers.channel import Channel

# The first successor comes at once. What cannot live is not tried in a circle: a start
# takes a second of CPU, which the other workers need.
_PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0)
# Who has served for so long did not die of its start.
_SETTLED_S: Final = 60.0


class Worker:
    """One forked process, alive or not yet buried."""

    def __init__(
        self, pid: int, slot: Slot, channel: Channel, *, started_s: float
    ) -> None:
        self.pid = pid
        self.slot = slot
        self.channel = channel
        self.started_s = started_s
        self.has_served = False
        # Whether its channel is.
        self.is_open = True
        # What it said of a start that failed.
        self.failure: tuple[str, int] | None = None


class Slot:
    """A place among the listeners, and who has it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: Worker | None = None
        self.has_served = False
        self.due_s: float | None = None
        # Deaths in a row, and how many of them before anything was served.
        self._deaths = 0
        self.false_starts = 0

    def taken(self, worker: Worker) -> None:
        self.worker = worker
        self.due_s = None

    def serves(self, worker: Worker) -> None:
        worker.has_served = self.has_served = True
        self.false_starts = 0

    def put_off(self, now_s: float) -> None:
        self.due_s = now_s + _PAUSES_S[-1]

    def lost(self, worker: Worker, now_s: float) -> None:
        """Its worker is gone, or going: when the next one is due."""
        if now_s - worker.started_s >= _SETTLED_S:
            self._deaths = 0
        if not worker.has_served:
            self.false_starts += 1
        self.worker = None
        self.due_s = now_s + _PAUSES_S[min(self._deaths, len(_PAUSES_S) - 1)]
        self._deaths += 1
