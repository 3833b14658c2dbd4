"""
What all workers have counted: asked in rounds, kept of each, merged for who wants it.

No I/O and no clock of its own. What a worker has told stays counted, also when it is
dead; so what was shown once is never taken back.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from gateway.telemetry.merging import Snapshot
from gateway.telemetry.tally import Tally

logger = logging.getLogger(__name__)

# A worker's event loop answers within milliseconds; who is slower is told of with what
# it said before.
ROUND_WITHIN_S: Final = 1.0

# Rounds in a row, of a second and a pause each, after which a worker is taken to hang
# for good: gunicorn gives one 30 s. Its share of the connections waits for nothing
# until then; at half, a machine that swaps would lose workers which had come back.
HUNG_ROUNDS: Final = 30
# What workers have said is looked at when somebody asks for totals, and so often where
# nobody does: in half a `Busiest` period no name loses its place and gets it back.
LOOK_EVERY_S: Final = 30.0
# The supervisor's own count, among process ids.
_OWN: Final = 0

_decode: Final = msgspec.msgpack.Decoder(Snapshot).decode
_encode: Final = msgspec.msgpack.Encoder().encode


class Voice(Protocol):
    """Speaks to the workers, each known by its process id."""

    def ask(self, pid: int, round_number: int) -> None: ...

    def tell(self, pid: int, number: int, snapshot: msgspec.Raw) -> None: ...

    def give_up(self, pid: int) -> None: ...


class Census:
    """
    One round at a time: who wants totals while one runs is told after the next.

    So totals never miss what had happened when somebody asked for them, and asking
    more often costs no more.
    """

    def __init__(
        self,
        voice: Voice,
        *,
        own: Callable[[], Snapshot],
        now_s: Callable[[], float],
        hung_rounds: int = HUNG_ROUNDS,
    ) -> None:
        self._voice = voice
        self._own = own
        self._now_s = now_s
        self._hung_rounds = hung_rounds
        # The last that each living worker said, as it came; empty once it is counted.
        # Most are never looked at.
        self._last: dict[int, bytes] = {}
        self._tally = Tally(now_s=now_s)
        self._look_at_s = now_s() + LOOK_EVERY_S
        self._round = 0
        self._awaited: set[int] = set()
        # Who did not answer in time, and in how many rounds in a row. Rounds, because
        # after a pause of the whole machine one has been missed, however long it was.
        self._silent: collections.Counter[int] = collections.Counter()
        self.ends_at_s: float | None = None
        # Who is told at this round's end, and who at the next one's.
        self._asking: dict[int, int] = {}
        self._waiting: dict[int, int] = {}

    def join(self, pid: int) -> None:
        """Count a worker in."""
        self._last[pid] = b""

    def want(self, pid: int, number: int) -> None:
        """A worker asks, for a scraper of its own, with a number that grows."""
        self._waiting[pid] = number
        self.begin()

    def begin(self) -> None:
        """Begin a round, if none runs."""
        if self.ends_at_s is not None or not self._last:
            return
        self._round += 1
        self._asking, self._waiting = self._waiting, {}
        self._awaited = set(self._last)
        self.ends_at_s = self._now_s() + ROUND_WITHIN_S
        for pid in self._last:
            self._voice.ask(pid, self._round)

    def hear(self, pid: int, round_number: int, snapshot: bytes) -> None:
        """A worker says what it has counted; however late, it is the newest."""
        if pid not in self._last:
            return
        self._last[pid] = snapshot
        self._silent.pop(pid, None)
        if round_number == self._round:
            self._heard(pid)

    def leave(self, pid: int) -> None:
        """A worker has said its last: what it counted stays, where it stood is over."""
        self._count(pid)
        self._last.pop(pid, None)
        self._tally.forget(pid)
        self._asking.pop(pid, None)
        self._waiting.pop(pid, None)
        self._silent.pop(pid, None)
        self._heard(pid)

    def look_at_clock(self) -> None:
        """End a round that somebody does not answer in."""
        if self.ends_at_s is not None and self._now_s() >= self.ends_at_s:
            # Told of once: a log is read by people.
            if self._awaited - self._silent.keys():
                facts = {"pids": sorted(self._awaited)}
                logger.warning("workers did not answer", extra={"facts": facts})
            self._silent.update(self._awaited)
            for pid in self._awaited:
                if self._silent[pid] == self._hung_rounds:
                    self._voice.give_up(pid)
            self._end()

    def _heard(self, pid: int) -> None:
        self._awaited.discard(pid)
        if self.ends_at_s is not None and not self._awaited:
            self._end()

    def _end(self) -> None:
        self.ends_at_s = None
        asking, self._asking = self._asking, {}
        if asking:
            totals = msgspec.Raw(_encode(self.totals()))
            for pid, number in asking.items():
                self._voice.tell(pid, number, totals)
        elif self._now_s() >= self._look_at_s:
            self._look()
        if self._waiting:
            self.begin()

    def totals(self) -> Snapshot:
        """What is known of all."""
        self._look()
        self._tally.hear(_OWN, self._own())
        return self._tally.snapshot()

    def _look(self) -> None:
        self._look_at_s = self._now_s() + LOOK_EVERY_S
        for pid in self._last:
            self._count(pid)

    def _count(self, pid: int) -> None:
        told = self._last.get(pid)
        if not told:
            return
        self._last[pid] = b""
        try:
            self._tally.hear(pid, _decode(told))
        except msgspec.DecodeError:
            # A bug; but the supervisor has more to do than to count.
            logger.exception("a worker's count cannot be read")
