"""Replays of one process: claims and answers in memory, bounded."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from policies.replay.port import (
    DEAD_KNOWN_MS,
    GONE,
    AnswerHead,
    Bounds,
    Claim,
    First,
    Part,
    Reading,
    ReplayKey,
    Standing,
)
from policies.replay.states import Record, decide

# Beyond it the answers that were kept longest ago are forgotten before their time.
MAX_BYTES: Final = 64 * 1024 * 1024

# What a record takes beside its answer, about.
_RECORD_BYTES: Final = 500
# What is handed out at once.
_READ_BYTES: Final = 64 * 1024

_Name: TypeAlias = tuple[str, str, str]


class _Recorded(Record):
    """A record, and as much of its answer as there is."""

    __slots__ = ("body", "budget", "head")

    def __init__(self, fingerprint: bytes, recording: str, budget: str) -> None:
        super().__init__(fingerprint, recording)
        self.head: AnswerHead | None = None
        self.body = bytearray()
        # Whose bytes these are: a workspace's own, or its cache's.
        self.budget = budget

    @property
    def bytes(self) -> int:
        return _RECORD_BYTES + len(self.body)


class MemoryReplays:
    """Implements `ReplayStore` for one process, by the clock it is given."""

    def __init__(
        self, clock_ms: Callable[[], int], *, lease_ms: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self._clock_ms = clock_ms
        self._lease_ms = lease_ms
        self._max_bytes = max_bytes
        # What was renewed or kept last comes last.
        self._records: OrderedDict[_Name, _Recorded] = OrderedDict()
        self._bytes = 0
        self._bytes_of: Counter[str] = Counter()

    @property
    def lease_ms(self) -> int:
        return self._lease_ms

    @property
    def held_bytes(self) -> int:
        return self._bytes

    async def claim(
        self, key: ReplayKey, owner: str, *, replaces: bool = False
    ) -> Claim:
        name, now_ms = _name_of(key), self._clock_ms()
        record = self._records.get(name)
        claim = decide(record, key, owner, now_ms, replaces=replaces)
        is_held = record is not None and record.is_held_by(owner)
        if isinstance(claim, First) and not is_held:
            self._begin(key, owner, claim.dead)
        return claim

    def _begin(self, key: ReplayKey, owner: str, dead: tuple[str, ...]) -> None:
        name = _name_of(key)
        self._forget(name)
        self._sweep()
        budget = f"{key.workspace} {key.scope == 'cache'}"
        record = _Recorded(key.fingerprint, owner, budget)
        record.dead = dead
        self._records[name] = record
        self._count(record, record.bytes)
        self._renew(name, record)

    def _renew(self, name: _Name, record: _Recorded) -> None:
        record.until_ms = self._clock_ms() + self._lease_ms
        record.forgotten_ms = record.until_ms + DEAD_KNOWN_MS
        self._records.move_to_end(name)

    async def append(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        record = self._records.get(_name_of(key))
        if record is None or not record.is_held_by(owner):
            return Standing(is_held=False)
        standing = self._grow(record, part, bounds)
        if standing.is_held and standing.has_room:
            self._renew(_name_of(key), record)
        return standing

    async def keep(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        name = _name_of(key)
        is_whole = part.start == 0 and part.head is not None
        if name not in self._records and is_whole:
            self._begin(key, owner, ())
        record = self._records.get(name)
        if record is None or record.recording != owner:
            return Standing(is_held=False)
        if record.until_ms is None:
            return Standing(is_held=True)
        standing = self._grow(record, part, bounds)
        if standing.is_held and standing.has_room:
            record.until_ms, record.is_withdrawn = None, False
            record.forgotten_ms = self._clock_ms() + bounds.ttl_ms
            self._records.move_to_end(name)
        return standing

    def _grow(self, record: _Recorded, part: Part, bounds: Bounds) -> Standing:
        held = len(record.body)
        followed = record.followed_until_ms > self._clock_ms()
        if part.data and held != part.end:
            if held != part.start:
                return Standing(is_held=False, is_followed=followed)
            if not self._make_room(record, len(part.data), bounds):
                return Standing(is_held=True, is_followed=followed, has_room=False)
            record.body += part.data
            self._count(record, len(part.data))
        if part.head is not None:
            record.head = part.head
        return Standing(is_held=True, is_followed=followed)

    async def withdraw(self, key: ReplayKey, owner: str) -> None:
        record = self._records.get(_name_of(key))
        if record is not None and record.is_held_by(owner):
            record.is_withdrawn = True

    async def release(self, key: ReplayKey, owner: str) -> None:
        record = self._records.get(_name_of(key))
        if record is not None and record.is_held_by(owner):
            self._forget(_name_of(key))

    async def read(
        self, key: ReplayKey, recording: str, offset: int, *, follows: bool = True
    ) -> Reading:
        record, now_ms = self._records.get(_name_of(key)), self._clock_ms()
        if record is None or record.recording != recording:
            return GONE
        ends_ms = record.forgotten_ms if record.until_ms is None else record.until_ms
        if ends_ms <= now_ms:
            return GONE
        if follows:
            record.followed_until_ms = now_ms + self._lease_ms
        data = bytes(record.body[offset : offset + _READ_BYTES])
        if record.is_withdrawn and not data:
            return GONE
        is_end = offset + len(data) == len(record.body)
        is_complete = is_end and record.until_ms is None
        return Reading("complete" if is_complete else "running", record.head, data)

    def _count(self, record: _Recorded, more_bytes: int) -> None:
        self._bytes += more_bytes
        self._bytes_of[record.budget] += more_bytes
        if not self._bytes_of[record.budget]:
            del self._bytes_of[record.budget]

    def _sweep(self) -> None:
        """Forget what is over, of the oldest two."""
        now_ms = self._clock_ms()
        for name in list(islice(self._records, 2)):
            if self._records[name].forgotten_ms <= now_ms:
                self._forget(name)

    def _make_room(self, asking: _Recorded, more_bytes: int, bounds: Bounds) -> bool:
        """Forget answers, the oldest first; False if what runs leaves no room."""
        budget = asking.budget
        while self._bytes_of[budget] + more_bytes > bounds.max_workspace_bytes:
            if not self._forget_oldest(budget):
                return False
        while self._bytes + more_bytes > self._max_bytes:
            if not self._forget_oldest(None):
                return False
        return True

    def _forget_oldest(self, budget: str | None) -> bool:
        for name, record in self._records.items():
            is_meant = budget is None or record.budget == budget
            if is_meant and record.until_ms is None:
                self._forget(name)
                return True
        return False

    def _forget(self, name: _Name) -> None:
        record = self._records.pop(name, None)
        if record is not None:
            self._count(record, -record.bytes)


def _name_of(key: ReplayKey) -> _Name:
    return (key.workspace, key.scope, key.key)
