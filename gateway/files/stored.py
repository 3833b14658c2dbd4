"""
What a workspace's files take, held to its plan: exact over all replicas.

One record a workspace, changed only as it was read. A file is counted before its record
is made and until its bytes are gone; meanwhile it is named here, so that whoever finds
it after a death knows what it was counted for. Whether its record is there is asked
after this one was read: a change that was decided on both is too late if either has
been changed since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from gateway.background.places import no_room
from gateway.errors import LimitExceeded
from policies.jobs.port import JobStore, JobsUnavailable, RecordName
from policies.plans import Plan

KIND: Final = "stored"
DIMENSION: Final = "stored-file-bytes"
# Then it is counted anew.
TTL_MS: Final = 5 * 365 * 86_400_000
# Others change the same record at the same instant: of each round one is done.
MOST_TRIES: Final = 100


class _Coming(msgspec.Struct, frozen=True, array_like=True):
    """What is about to be a file, and since when."""

    bytes: int
    since_s: int


class _Count(msgspec.Struct):
    """Of all files; those that come and go are in `bytes` as well."""

    bytes: int
    coming: dict[str, _Coming] = msgspec.field(default_factory=dict)
    going: dict[str, int] = msgspec.field(default_factory=dict)


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Count).decode

# The bytes of a file by its record, or None; of all records of a workspace.
SizeOf = Callable[[str, str], Awaitable[int | None]]
SizeOfAll = Callable[[str], Awaitable[int]]
_Change = Callable[[_Count], Awaitable[bool]]


class StoredBytes:
    """Counts files as they come and go; JobsUnavailable."""

    def __init__(
        self,
        jobs: JobStore,
        size_of: SizeOf,
        size_of_all: SizeOfAll,
        now_s: Callable[[], float],
    ) -> None:
        self._jobs = jobs
        self._now_s = now_s
        self._size_of = size_of
        self._size_of_all = size_of_all

    async def require_room(self, workspace: str, plan: Plan, size: int) -> None:
        """LimitExceeded if so much does not fit now; nothing is counted."""
        most = plan.batch.stored_file_bytes
        if most is None:
            return
        kept = await self._jobs.read(_name(workspace))
        used = 0 if kept is None else _decode(kept.body).bytes
        if used + size > most:
            raise _no_room(plan, most, used, size)

    async def add(
        self, workspace: str, file_id: str, size: int, plan: Plan | None
    ) -> None:
        """Count a file that is about to be; LimitExceeded, which None never meets."""
        most = None if plan is None else plan.batch.stored_file_bytes

        async def change(count: _Count) -> bool:
            if file_id in count.going:
                # Who gives it back would give this one back.
                raise JobsUnavailable
            is_there = await self._size_of(workspace, file_id) is not None
            if file_id in count.coming or is_there:
                return False
            if plan is not None and most is not None and count.bytes + size > most:
                raise _no_room(plan, most, count.bytes, size)
            count.bytes += size
            count.coming[file_id] = _Coming(size, int(self._now_s()))
            return True

        await self._change(workspace, change)

    async def settle(self, workspace: str, file_id: str) -> None:
        """It is a file now, if it is."""

        async def change(count: _Count) -> bool:
            if count.coming.pop(file_id, None) is None:
                return False
            return await self._size_of(workspace, file_id) is not None

        await self._change(workspace, change)

    async def begin_leaving(self, workspace: str, file_id: str) -> None:
        """Before its record goes: what is then to be given back."""

        async def change(count: _Count) -> bool:
            size = await self._size_of(workspace, file_id)
            if size is None:
                return False
            count.coming.pop(file_id, None)
            count.going[file_id] = size
            # Also where it says so already: who read it before must not succeed.
            return True

        await self._change(workspace, change)

    async def coming_since_s(self, workspace: str, file_id: str) -> int | None:
        """Since when it is about to be a file; None if it is not."""
        kept = await self._jobs.read(_name(workspace))
        found = None if kept is None else _decode(kept.body).coming.get(file_id)
        return None if found is None else found.since_s

    async def is_leaving(self, workspace: str, file_id: str) -> bool:
        """Whether somebody has begun to delete it, and may have died since."""
        kept = await self._jobs.read(_name(workspace))
        return kept is not None and file_id in _decode(kept.body).going

    async def give_back(self, workspace: str, file_id: str) -> None:
        """The record and the bytes of what began to leave are gone."""

        async def change(count: _Count) -> bool:
            size = count.going.pop(file_id, None)
            count.bytes -= size or 0
            return size is not None

        await self._change(workspace, change)

    async def give_up(self, workspace: str, file_id: str) -> None:
        """What was about to be a file never became one."""

        async def change(count: _Count) -> bool:
            coming = count.coming.pop(file_id, None)
            if coming is None or await self._size_of(workspace, file_id) is not None:
                return False
            count.bytes -= coming.bytes
            return True

        await self._change(workspace, change)

    async def _change(self, workspace: str, change: _Change) -> None:
        name = _name(workspace)
        for _ in range(MOST_TRIES):
            kept = await self._jobs.read(name)
            if kept is None:
                count = _Count(await self._size_of_all(workspace))
            else:
                count = _decode(kept.body)
            if not await change(count):
                return
            body = _encode(count)
            if kept is None:
                is_done = await self._jobs.create(name, body, TTL_MS)
            else:
                is_done = await self._jobs.replace(name, body, kept.version, TTL_MS)
            if is_done:
                return
        raise JobsUnavailable


def _name(workspace: str) -> RecordName:
    return RecordName(workspace, KIND, "bytes")


def _no_room(plan: Plan, most: int, used: int, size: int) -> LimitExceeded:
    whose = f"{DIMENSION} on plan {plan.title or plan.plan}"
    figures = f"Limit {most}, Used {used}, Requested {size}"
    text = f"The workspace's files have no room for {whose}: {figures}."
    text += " Please delete files that are no longer needed."
    return no_room(plan, DIMENSION, text, most=most, used=used, asked=size)
