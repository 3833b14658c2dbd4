"""
Files of a workspace: their records in the job store, their bytes in the storage.

The bytes come first and go last: a record never names what is not there, and what a
crash leaves without a record is nobody's and is swept away.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.auth import Principal
from gateway.background.places import require_place
from gateway.background.starting import id_under_key
from gateway.files.stored import StoredBytes
from gateway.storage.port import Storage, StorageUnavailable, StoredObject
from policies.jobs.port import (
    MAX_LISTED,
    JobStore,
    JobsUnavailable,
    RecordName,
    new_record_id,
)

KIND: Final = "file"
# Of files whose bytes may have to go.
QUEUE: Final = "files"
# No upload takes so long.
UNREGISTERED_MS: Final = 86_400_000
# Until a file that is being deleted has surely lost its record, or surely kept it.
SURELY_FORGOTTEN_MS: Final = 60_000

Purpose: TypeAlias = Literal[
    "assistants",
    "batch",
    "batch_output",
    "evals",
    "fine-tune",
    "fine-tune-results",
    "user_data",
    "vision",
]
UPLOADED: Final = frozenset(
    {"assistants", "batch", "evals", "fine-tune", "user_data", "vision"}
)

# Without an end of its own a file would be kept for ever, by a store that promises an
# end of everything.
LONGEST_KEPT_S: Final = 5 * 365 * 86_400


# The record of a file that has expired, which says what its end gives back.
EXPIRED_KEPT_S: Final = 30 * 86_400
# After the second in which it expires.
JUST_AFTER_MS: Final = 1000


class FileRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it is kept."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    expires_at: int | None = None
    sha256: str = ""

    def shown(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            # Deprecated, and its clients' types still require it.
            "status": "processed",
        }


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked to be kept; two uploads that ask for this are the same."""

    filename: str
    purpose: Purpose
    expires_after_s: int | None
    stored: StoredObject


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(FileRecord).decode


class FileService:
    """Keeps, lists, reads and forgets files; JobsUnavailable, StorageUnavailable."""

    def __init__(
        self,
        jobs: JobStore,
        storage: Storage,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._jobs = jobs
        self.storage = storage
        self._now_s = now_s
        self._stored = StoredBytes(jobs, self._size_of, self._size_of_all, now_s)

    async def create(
        self,
        workspace: str,
        chunks: AsyncIterator[bytes],
        *,
        filename: str,
        purpose: Purpose,
        expires_after_s: int | None = None,
        file_id: str | None = None,
    ) -> FileRecord:
        """
        Keep a file; nothing is kept if its bytes end in an error.

        A `file_id` that is there already is the same file: whoever writes it again
        after a crash finds it done.
        """
        if file_id is None:
            file_id = new_file_id(self._now_s)
        elif (there := await self.read(workspace, file_id)) is not None:
            return there
        new = NewFile(
            filename=filename,
            purpose=purpose,
            expires_after_s=expires_after_s,
            stored=await self.receive(workspace, file_id, chunks),
        )
        # What a batch has cost is not thrown away for want of room.
        await self._stored.add(workspace, file_id, new.stored.bytes, None)
        return await self.register(workspace, file_id, new)

    async def receive(
        self, workspace: str, file_id: str, chunks: AsyncIterator[bytes]
    ) -> StoredObject:
        """Keep the bytes of a file that is to be registered within a day."""
        item = _item(workspace, file_id)
        await self._jobs.schedule(QUEUE, item, in_ms=UNREGISTERED_MS)
        return await self.storage.put(content_key(workspace, file_id), chunks)

    async def forget_received(self, workspace: str, file_id: str) -> None:
        """Delete bytes that will not be registered."""
        await self.storage.delete(content_key(workspace, file_id))

    async def id_under_key(
        self, principal: Principal, key: str | None, new: NewFile, file_id: str
    ) -> str:
        """The id of the first upload under a key, as of `starting.id_under_key`."""
        return await id_under_key(self._jobs, principal, KIND, key, new, file_id)

    async def require_room(self, principal: Principal, size: int) -> None:
        """LimitExceeded if so much, or one more file, has no room now."""
        await require_place(self._jobs, principal, KIND, "files")
        await self._stored.require_room(principal.workspace, principal.plan, size)

    async def count(self, principal: Principal, file_id: str, new: NewFile) -> None:
        """Before it is registered; LimitExceeded if it has no room."""
        await require_place(self._jobs, principal, KIND, "files")
        size, plan = new.stored.bytes, principal.plan
        await self._stored.add(principal.workspace, file_id, size, plan)

    async def repeat(
        self, principal: Principal, first_id: str, new: NewFile, received_id: str
    ) -> FileRecord:
        """
        The file that was uploaded first; made of what came now if it is not there.

        Its upload may have died before it was registered, or is about to be.
        """
        workspace = principal.workspace
        first = await self._kept(workspace, first_id)
        if first is not None and not self._has_expired(first):
            return first
        if first is not None:
            await self._forget_record(workspace, first_id)
            await self._finish_leaving(workspace, first_id)
        await self.count(principal, first_id, new)
        await self.receive(workspace, first_id, self.open(workspace, received_id))
        return await self.register(workspace, first_id, new)

    async def register(self, workspace: str, file_id: str, new: NewFile) -> FileRecord:
        """Make a file of what was received and counted, or find the one there is."""
        now_s, expires_after_s = int(self._now_s()), new.expires_after_s
        record = FileRecord(
            id=file_id,
            bytes=new.stored.bytes,
            created_at=now_s,
            filename=new.filename,
            purpose=new.purpose,
            expires_at=None if expires_after_s is None else now_s + expires_after_s,
            sha256=new.stored.sha256,
        )
        ttl_s = LONGEST_KEPT_S
        if expires_after_s is not None:
            ttl_s = expires_after_s + EXPIRED_KEPT_S
        name = _name(workspace, file_id)
        if expires_after_s is not None:
            in_ms = expires_after_s * 1000 + JUST_AFTER_MS
            await self._jobs.schedule(QUEUE, _item(workspace, file_id), in_ms=in_ms)
        is_new = await self._jobs.create(name, _encode(record), ttl_s * 1000)
        # From here it is a file; who looks at it in a day settles what was not.
        with suppress(JobsUnavailable):
            await self._stored.settle(workspace, file_id)
        if is_new:
            return record
        return await self.read(workspace, file_id) or record

    async def read(self, workspace: str, file_id: str) -> FileRecord | None:
        """The record of a file, or None."""
        record = await self._kept(workspace, file_id)
        return None if record is None or self._has_expired(record) else record

    async def _kept(self, workspace: str, file_id: str) -> FileRecord | None:
        """The same, also of a file that has expired and was not swept yet."""
        kept = await self._jobs.read(_name(workspace, file_id))
        return None if kept is None else _decode(kept.body)

    def _has_expired(self, record: FileRecord) -> bool:
        return record.expires_at is not None and record.expires_at <= self._now_s()

    async def _size_of(self, workspace: str, file_id: str) -> int | None:
        record = await self._kept(workspace, file_id)
        return None if record is None else record.bytes

    async def _size_of_all(self, workspace: str) -> int:
        size, after = 0, None
        while found := await self._jobs.page(
            workspace, KIND, after=after, limit=MAX_LISTED
        ):
            size += sum(_decode(each.body).bytes for each in found)
            after = found[-1].record_id
        return size

    async def page(
        self,
        workspace: str,
        *,
        after: str | None,
        limit: int,
        newest_first: bool,
        purpose: str | None = None,
    ) -> Sequence[FileRecord]:
        """Files in the order in which they were made, all or those of a purpose."""
        matching: list[FileRecord] = []
        # Of one purpose there may be one file among thousands.
        most = limit if purpose is None else MAX_LISTED
        while len(matching) < limit:
            found = await self._jobs.page(
                workspace, KIND, after=after, limit=most, newest_first=newest_first
            )
            records = [_decode(each.body) for each in found]
            matching += [
                each
                for each in records
                if purpose in {None, each.purpose} and not self._has_expired(each)
            ]
            if len(found) < most:
                break
            after = found[-1].record_id
        return matching[:limit]

    def open(self, workspace: str, file_id: str) -> AsyncIterator[bytes]:
        """The bytes of a file; ObjectMissing at its first if there are none."""
        return self.storage.open(content_key(workspace, file_id))

    async def size(self, workspace: str, file_id: str) -> int | None:
        """How many bytes are kept of a file; None if there are none."""
        return await self.storage.size(content_key(workspace, file_id))

    async def delete(self, workspace: str, file_id: str) -> None:
        """
        Forget a file; it is gone with its record.

        Scheduled first: whoever dies in between, or finds the storage away, leaves
        bytes that nobody else would ever delete.
        """
        item = _item(workspace, file_id)
        await self._jobs.schedule(QUEUE, item, in_ms=SURELY_FORGOTTEN_MS)
        await self._forget_record(workspace, file_id)
        with suppress(StorageUnavailable, JobsUnavailable):
            await self._finish_leaving(workspace, file_id)

    async def _forget_record(self, workspace: str, file_id: str) -> None:
        await self._stored.begin_leaving(workspace, file_id)
        await self._jobs.delete(_name(workspace, file_id))

    async def _finish_leaving(self, workspace: str, file_id: str) -> None:
        """What is left of a file without a record."""
        await self.storage.delete(content_key(workspace, file_id))
        await self._stored.give_back(workspace, file_id)

    async def sweep(self, item: str) -> int | None:
        """
        Delete the bytes of a file that is no more, or never was; when to look again.

        Work of the queue `QUEUE`, due when an upload must be over.
        """
        workspace, _, file_id = item.partition(" ")
        record = await self._kept(workspace, file_id)
        if record is None:
            return await self._sweep_lost(workspace, file_id)
        if self._has_expired(record) or await self._stored.is_leaving(
            workspace, file_id
        ):
            await self._forget_record(workspace, file_id)
            await self._finish_leaving(workspace, file_id)
            return None
        await self._stored.settle(workspace, file_id)
        if record.expires_at is None:
            return None
        left_ms = int((record.expires_at - self._now_s()) * 1000)
        return max(JUST_AFTER_MS, left_ms + JUST_AFTER_MS)

    async def _sweep_lost(self, workspace: str, file_id: str) -> int | None:
        """The same of a file without a record."""
        since_s = await self._stored.coming_since_s(workspace, file_id)
        if since_s is not None:
            left_ms = UNREGISTERED_MS - int((self._now_s() - since_s) * 1000)
            if left_ms > 0:
                # It was deleted, and is being uploaded again under its key.
                return left_ms
        await self._finish_leaving(workspace, file_id)
        await self._stored.give_up(workspace, file_id)
        return None

    async def lines(
        self, workspace: str, file_id: str, *, max_line_bytes: int
    ) -> AsyncIterator[bytes]:
        """Its lines as of `split_lines`; ObjectMissing."""
        async for line in split_lines(self.open(workspace, file_id), max_line_bytes):
            yield line


async def split_lines(
    chunks: AsyncIterator[bytes], max_line_bytes: int
) -> AsyncIterator[bytes]:
    """
    Lines of bytes that come in pieces, without their ends.

    Of a longer one there is one byte too much and no more: a file may be a single line,
    and whoever is given it refuses it by its length.
    """
    most, line = max_line_bytes + 1, bytearray()
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            line += chunk[start : min(end, start + most - len(line))]
            yield bytes(line)
            line.clear()
            start = end + 1
        line += chunk[start : start + most - len(line)]
    if line:
        yield bytes(line)


def new_file_id(now_s: Callable[[], float] = time.time) -> str:
    return new_record_id("file-", int(now_s() * 1000))


def folder_of(workspace: str) -> str:
    """Where a workspace's objects are: its name may hold what a key may not."""
    return hashlib.sha256(workspace.encode()).hexdigest()[:32]


def content_key(workspace: str, file_id: str) -> str:
    return f"files/{folder_of(workspace)}/{file_id}"


def _item(workspace: str, file_id: str) -> str:
    return f"{workspace} {file_id}"


def _name(workspace: str, file_id: str) -> RecordName:
    return RecordName(workspace, KIND, file_id)
