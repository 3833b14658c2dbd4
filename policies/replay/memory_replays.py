"""Replays of one process: claims and answers in memory, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final

from policies.replay.packing import pack_beside, unpack_answer
from policies.replay.port import (
    Claim,
    Conflict,
    First,
    InFlight,
    KeptAnswer,
    ReplayKey,
    Stored,
)

# Of answers, packed. Beyond it the oldest are forgotten before their time.
MAX_BYTES: Final = 64 * 1024 * 1024

# What a record takes beside its answer, about.
_RECORD_BYTES: Final = 500


class _Record:
    """A key that is taken: by an owner that runs, or by an answer."""

    __slots__ = ("answer", "expires_ms", "fingerprint", "owner")

    def __init__(self, fingerprint: bytes, owner: str, expires_ms: int) -> None:
        self.fingerprint = fingerprint
        # Empty once there is an answer.
        self.owner = owner
        self.answer = b""
        self.expires_ms = expires_ms

    @property
    def bytes(self) -> int:
        return _RECORD_BYTES + len(self.answer)


class MemoryReplays:
    """Implements `ReplayStore` for one process, by the clock it is given."""

    def __init__(
        self, clock_ms: Callable[[], int], *, lease_ms: int, max_bytes: int = MAX_BYTES
    ) -> None:
        self._clock_ms = clock_ms
        self._lease_ms = lease_ms
        self._max_bytes = max_bytes
        # Claims are renewed, answers are not: the oldest answers come first.
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()
        self._bytes = 0

    @property
    def lease_ms(self) -> int:
        return self._lease_ms

    @property
    def held_bytes(self) -> int:
        return self._bytes

    async def claim(self, key: ReplayKey, owner: str) -> Claim:
        name, now_ms = (key.workspace, key.key), self._clock_ms()
        record = self._records.get(name)
        if record is not None and record.expires_ms <= now_ms:
            self._forget(name)
            record = None
        if record is None:
            self._make_room()
            record = _Record(key.fingerprint, owner, now_ms + self._lease_ms)
            self._records[name] = record
            self._bytes += record.bytes
            return First()
        if record.fingerprint != key.fingerprint:
            return Conflict()
        if not record.owner:
            return Stored(unpack_answer(record.answer))
        return First() if record.owner == owner else InFlight()

    async def renew(self, key: ReplayKey, owner: str) -> bool:
        record = self._held(key, owner)
        if record is None:
            return False
        record.expires_ms = self._clock_ms() + self._lease_ms
        self._records.move_to_end((key.workspace, key.key))
        return True

    async def keep(
        self, key: ReplayKey, owner: str, answer: KeptAnswer, ttl_ms: int
    ) -> bool:
        packed = await pack_beside(answer)
        record = self._held(key, owner)
        if record is None:
            return False
        self._bytes -= record.bytes
        record.owner, record.answer = "", packed
        record.expires_ms = self._clock_ms() + ttl_ms
        self._bytes += record.bytes
        self._records.move_to_end((key.workspace, key.key))
        self._make_room()
        return True

    async def release(self, key: ReplayKey, owner: str) -> None:
        if self._held(key, owner) is not None:
            self._forget((key.workspace, key.key))

    def _held(self, key: ReplayKey, owner: str) -> _Record | None:
        record = self._records.get((key.workspace, key.key))
        if record is None or record.owner != owner:
            return None
        return record if record.expires_ms > self._clock_ms() else None

    def _make_room(self) -> None:
        """Forget what is due, of the oldest two; and answers beyond the bound."""
        now_ms = self._clock_ms()
        for name in list(islice(self._records, 2)):
            if self._records[name].expires_ms <= now_ms:
                self._forget(name)
        while self._bytes > self._max_bytes:
            oldest = next((n for n, r in self._records.items() if not r.owner), None)
            if oldest is None:
                return  # only claims are left, and whoever has one runs
            self._forget(oldest)

    def _forget(self, name: tuple[str, str]) -> None:
        self._bytes -= self._records.pop(name).bytes
