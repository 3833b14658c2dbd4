"""Long jobs of all replicas, in Redis: by the server's clock, a script a change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from policies.jobs.port import (
    LOOKED_AT,
    MAX_LISTED,
    JobsUnavailable,
    Kept,
    RecordName,
    Standing,
)
from policies.key_names import job_collection, job_queue, job_record
from policies.store.errors import StoreUnavailable
from policies.store.scripts import load_script
from policies.store.store import Argument, Store

T = TypeVar("T")

RECORD: Final = load_script("job_record")
# These two also where memory is full: what is given back gives some.
FORGET: Final = load_script("job_forget", is_allowed_when_full=True)
COLLECT: Final = load_script("job_collect")
WORK: Final = load_script("job_work", is_allowed_when_full=True)
STAND: Final = load_script("job_stand")
JOB_SCRIPTS: Final = (RECORD, FORGET, COLLECT, WORK, STAND)

# Read at once: at four times as many, a list would hold up admissions behind it.
READ_TOGETHER: Final = 100


class RedisJobs:
    """Implements `JobStore` for all replicas; the store is somebody else's."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def create(self, name: RecordName, body: bytes, ttl_ms: int) -> bool:
        is_new = await self._write(name, body, 0, ttl_ms)
        if is_new:
            with suppress(JobsUnavailable):
                await self._forget_ended(name.workspace, name.kind)
        return is_new

    async def _forget_ended(self, workspace: str, kind: str) -> None:
        """Of the oldest: the index lives on and would name them for ever."""
        ids = await self._ids(workspace, kind, None, LOOKED_AT, newest_first=False)
        await self._living(workspace, kind, ids)

    async def replace(
        self, name: RecordName, body: bytes, version: int, ttl_ms: int | None = None
    ) -> bool:
        return await self._write(name, body, version, ttl_ms or 0)

    async def _write(
        self, name: RecordName, body: bytes, version: int, ttl_ms: int
    ) -> bool:
        keys = _keys(name)
        args = (name.record_id, body, version, ttl_ms)
        return bool(await _answered(self._store.run(RECORD, keys, args)))

    async def read(self, name: RecordName) -> Kept | None:
        key = _keys(name)[0]
        reply = await _answered(
            self._store.call("HMGET", key, "version", "body", key=key)
        )
        version, body = reply
        return None if version is None else Kept(name.record_id, int(version), body)

    async def delete(self, name: RecordName) -> bool:
        keys = _keys(name)
        return bool(await _answered(self._store.run(FORGET, keys, (name.record_id,))))

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
        wanted = min(limit, MAX_LISTED)
        while len(found) < wanted:
            most = min(wanted - len(found), READ_TOGETHER)
            ids = await self._ids(
                workspace, kind, after, most, newest_first=newest_first
            )
            if not ids:
                break
            found += await self._living(workspace, kind, ids)
            after = ids[-1]
        return found

    async def _living(
        self, workspace: str, kind: str, ids: Sequence[str]
    ) -> Sequence[Kept]:
        names = [RecordName(workspace, kind, each) for each in ids]
        read = await asyncio.gather(*map(self.read, names))
        gone = [n for n, each in zip(names, read, strict=True) if each is None]
        # Expired: the index learns of it from whoever looks.
        await asyncio.gather(*map(self.delete, gone))
        return [each for each in read if each is not None]

    async def count(self, workspace: str, kind: str) -> int:
        index = job_record(workspace, kind, "")[1]
        return int(await _answered(self._store.call("ZCARD", index, key=index)))

    async def _ids(
        self,
        workspace: str,
        kind: str,
        after: str | None,
        most: int,
        *,
        newest_first: bool,
    ) -> list[str]:
        index = job_record(workspace, kind, "")[1]
        beyond = "(" + after if after is not None else ("+" if newest_first else "-")
        bounds: tuple[str, ...] = (beyond, "-", "BYLEX", "REV")
        if not newest_first:
            bounds = (beyond, "+", "BYLEX")
        command: tuple[Argument, ...] = ("ZRANGE", index, *bounds, "LIMIT", 0, most)
        reply = await _answered(self._store.call(*command, key=index))
        return [each.decode() for each in reply]

    async def collect(
        self, workspace: str, collection: str, entries: Mapping[str, bytes], ttl_ms: int
    ) -> int:
        keys = (job_collection(workspace, collection),)
        args: list[Argument] = [ttl_ms]
        for name, entry in entries.items():
            args += (name, entry)
        return int(await _answered(self._store.run(COLLECT, keys, args)))

    async def collected(self, workspace: str, collection: str) -> dict[str, bytes]:
        key = job_collection(workspace, collection)
        reply = await _answered(self._store.call("HGETALL", key, key=key))
        flat = iter(_flat(reply))
        return {name.decode(): entry for name, entry in zip(flat, flat, strict=True)}

    async def discard(self, workspace: str, collection: str) -> None:
        key = job_collection(workspace, collection)
        await _answered(self._store.call("DEL", key, key=key))

    async def schedule(self, queue: str, item: str, *, in_ms: int = 0) -> None:
        await self._work(queue, "schedule", item, "", in_ms)

    async def claim(
        self, queue: str, owner: str, *, lease_ms: int, most: int
    ) -> Sequence[str]:
        reply = await self._work(queue, "claim", most, owner, lease_ms)
        return [each.decode() for each in reply]

    async def renew(self, queue: str, item: str, owner: str, *, lease_ms: int) -> bool:
        return bool(await self._work(queue, "renew", item, owner, lease_ms))

    async def put_off(self, queue: str, item: str, owner: str, *, in_ms: int) -> bool:
        return bool(await self._work(queue, "put_off", item, owner, in_ms))

    async def finish(self, queue: str, item: str, owner: str) -> bool:
        return bool(await self._work(queue, "finish", item, owner, 0))

    async def standing(self, queue: str) -> Standing:
        due, *_ = job_queue(queue)
        return Standing(*await _answered(self._store.run(STAND, (due,), ())))

    async def scheduled(self, queue: str, *, most: int) -> Sequence[str]:
        due, *_ = job_queue(queue)
        reply = await _answered(self._store.call("ZRANGE", due, 0, most - 1, key=due))
        return [each.decode() for each in reply]

    async def _work(self, queue: str, *args: Argument) -> Any:
        return await _answered(self._store.run(WORK, job_queue(queue), args))


def _keys(name: RecordName) -> tuple[str, str]:
    return job_record(name.workspace, name.kind, name.record_id)


def _flat(reply: Any) -> list[bytes]:
    """A hash as either generation of the protocol has it."""
    if isinstance(reply, dict):
        return [each for pair in reply.items() for each in pair]
    return list(reply)


async def _answered(asked: Awaitable[T]) -> T:
    try:
        return await asked
    except StoreUnavailable as error:
        raise JobsUnavailable from error
