"""Long jobs of one process, kept in its memory: the embedded default."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence

import msgspec

from policies.jobs.port import LOOKED_AT, MAX_LISTED, Kept, RecordName, Standing


class _Record(msgspec.Struct):
    body: bytes
    version: int
    ends_ms: int


class _Collection(msgspec.Struct):
    entries: dict[str, bytes]
    ends_ms: int


class _Work(msgspec.Struct):
    due_ms: int
    owner: str | None = None
    # Scheduled again while it was held.
    is_woken: bool = False


class MemoryJobs:
    """Implements `JobStore` for one process."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._records: dict[tuple[str, str], dict[str, _Record]] = {}
        # The ids of each, sorted.
        self._ids: dict[tuple[str, str], list[str]] = {}
        self._collections: dict[tuple[str, str], _Collection] = {}
        self._queues: dict[str, dict[str, _Work]] = {}

    async def create(self, name: RecordName, body: bytes, ttl_ms: int) -> bool:
        if self._living(name) is not None:
            return False
        place = name.workspace, name.kind
        record = _Record(body, 1, self._clock_ms() + ttl_ms)
        self._records.setdefault(place, {})[name.record_id] = record
        ids = self._ids.setdefault(place, [])
        insort(ids, name.record_id)
        for oldest in ids[:LOOKED_AT]:
            self._living(RecordName(*place, oldest))
        return True

    async def read(self, name: RecordName) -> Kept | None:
        record = self._living(name)
        if record is None:
            return None
        return Kept(name.record_id, record.version, record.body)

    async def replace(
        self, name: RecordName, body: bytes, version: int, ttl_ms: int | None = None
    ) -> bool:
        record = self._living(name)
        if record is None or record.version != version:
            return False
        record.body, record.version = body, version + 1
        if ttl_ms is not None:
            record.ends_ms = self._clock_ms() + ttl_ms
        return True

    async def delete(self, name: RecordName) -> bool:
        was_there = self._living(name) is not None
        self._forget(name)
        return was_there

    async def page(
        self,
        workspace: str,
        kind: str,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = True,
    ) -> Sequence[Kept]:
        found: list[Kept] = []
        for record_id in self._after(workspace, kind, after, newest_first):
            kept = await self.read(RecordName(workspace, kind, record_id))
            if kept is not None:
                found.append(kept)
            if len(found) == min(limit, MAX_LISTED):
                break
        return found

    async def count(self, workspace: str, kind: str) -> int:
        return len(self._ids.get((workspace, kind), ()))

    def _after(
        self, workspace: str, kind: str, after: str | None, newest_first: bool
    ) -> Sequence[str]:
        ids = self._ids.get((workspace, kind), [])
        if newest_first:
            return ids[: len(ids) if after is None else bisect_left(ids, after)][::-1]
        return ids[0 if after is None else bisect_right(ids, after) :]

    def _living(self, name: RecordName) -> _Record | None:
        record = self._records.get((name.workspace, name.kind), {}).get(name.record_id)
        if record is not None and record.ends_ms <= self._clock_ms():
            self._forget(name)
            return None
        return record

    def _forget(self, name: RecordName) -> None:
        place = name.workspace, name.kind
        if self._records.get(place, {}).pop(name.record_id, None) is not None:
            ids = self._ids[place]
            del ids[bisect_left(ids, name.record_id)]

    async def collect(
        self, workspace: str, collection: str, entries: Mapping[str, bytes], ttl_ms: int
    ) -> int:
        self._drop_old_collections()
        place, ends_ms = (workspace, collection), self._clock_ms() + ttl_ms
        kept = self._collections.setdefault(place, _Collection({}, ends_ms))
        kept.ends_ms = ends_ms
        new = entries.keys() - kept.entries.keys()
        kept.entries.update({name: entries[name] for name in new})
        return len(new)

    async def collected(self, workspace: str, collection: str) -> dict[str, bytes]:
        self._drop_old_collections()
        kept = self._collections.get((workspace, collection))
        return {} if kept is None else dict(kept.entries)

    async def discard(self, workspace: str, collection: str) -> None:
        self._collections.pop((workspace, collection), None)

    def _drop_old_collections(self) -> None:
        now_ms = self._clock_ms()
        old = [at for at, each in self._collections.items() if each.ends_ms <= now_ms]
        for at in old:
            del self._collections[at]

    async def schedule(self, queue: str, item: str, *, in_ms: int = 0) -> None:
        due_ms = self._clock_ms() + in_ms
        work = self._queues.setdefault(queue, {}).setdefault(item, _Work(due_ms))
        if self._is_held(work):
            work.is_woken = True
        else:
            work.due_ms = min(work.due_ms, due_ms)

    async def claim(
        self, queue: str, owner: str, *, lease_ms: int, most: int
    ) -> Sequence[str]:
        now_ms = self._clock_ms()
        works = self._queues.get(queue, {})
        due = sorted((each.due_ms, item) for item, each in works.items())
        claimed = [item for due_ms, item in due if due_ms <= now_ms][:most]
        for item in claimed:
            works[item] = _Work(now_ms + lease_ms, owner)
        return claimed

    async def renew(self, queue: str, item: str, owner: str, *, lease_ms: int) -> bool:
        work = self._held_by(queue, item, owner)
        if work is None:
            return False
        work.due_ms = self._clock_ms() + lease_ms
        return True

    async def put_off(self, queue: str, item: str, owner: str, *, in_ms: int) -> bool:
        work = self._held_by(queue, item, owner)
        if work is None:
            return False
        work.due_ms = self._clock_ms() + (0 if work.is_woken else in_ms)
        work.owner, work.is_woken = None, False
        return True

    async def finish(self, queue: str, item: str, owner: str) -> bool:
        work = self._held_by(queue, item, owner)
        if work is None:
            return False
        if work.is_woken:
            return await self.put_off(queue, item, owner, in_ms=0)
        del self._queues[queue][item]
        return True

    async def standing(self, queue: str) -> Standing:
        now_ms = self._clock_ms()
        times = [each.due_ms for each in self._queues.get(queue, {}).values()]
        due = [each for each in times if each <= now_ms]
        overdue_ms = now_ms - min(due) if due else 0
        return Standing(len(times), len(due), overdue_ms)

    async def scheduled(self, queue: str, *, most: int) -> Sequence[str]:
        works = self._queues.get(queue, {})
        by_time = sorted((each.due_ms, item) for item, each in works.items())
        return [item for _, item in by_time[:most]]

    def _held_by(self, queue: str, item: str, owner: str) -> _Work | None:
        work = self._queues.get(queue, {}).get(item)
        if work is None or work.owner != owner or not self._is_held(work):
            return None
        return work

    def _is_held(self, work: _Work) -> bool:
        return work.owner is not None and work.due_ms > self._clock_ms()
