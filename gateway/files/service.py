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
from gateway.background.starting import id_under_key
from gateway.storage.port import Storage, StorageUnavailable, StoredObject
from policies.jobs.port import MAX_LISTED, JobStore, RecordName, new_record_id

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
        file_id = file_id or new_file_id(self._now_s)
        new = NewFile(
            filename=filename,
            purpose=purpose,
            expires_after_s=expires_after_s,
            stored=await self.receive(workspace, file_id, chunks),
        )
        return await self.register(workspace, file_id, new)

    async def receive(
        self, workspace: str, file_id: str, chunks: AsyncIterator[bytes]
    ) -> StoredObject:
        """Keep the bytes of a file that is to be registered within a day."""
        item = f"{workspace} {file_id}"
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

    async def repeat(
        self, workspace: str, first_id: str, new: NewFile, received_id: str
    ) -> FileRecord:
        """
        The file that was uploaded first; made of what came now if it is not there.

        Its upload may have died before it was registered, or is about to be.
        """
        first = await self.read(workspace, first_id)
        if first is not None:
            return first
        await self.receive(workspace, first_id, self.open(workspace, received_id))
        return await self.register(workspace, first_id, new)

    async def register(self, workspace: str, file_id: str, new: NewFile) -> FileRecord:
        """Make a file of bytes that were received; the one that is there already."""
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
        ttl_s = expires_after_s or LONGEST_KEPT_S
        name = _name(workspace, file_id)
        if await self._jobs.create(name, _encode(record), ttl_s * 1000):
            return record
        return await self.read(workspace, file_id) or record

    async def read(self, workspace: str, file_id: str) -> FileRecord | None:
        """The record of a file, or None."""
        kept = await self._jobs.read(_name(workspace, file_id))
        return None if kept is None else _decode(kept.body)

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
            matching += [x for x in records if purpose is None or x.purpose == purpose]
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
        item = f"{workspace} {file_id}"
        await self._jobs.schedule(QUEUE, item, in_ms=SURELY_FORGOTTEN_MS)
        await self._jobs.delete(_name(workspace, file_id))
        with suppress(StorageUnavailable):
            await self.storage.delete(content_key(workspace, file_id))

    async def sweep(self, item: str) -> int | None:
        """
        Delete the bytes of a file that is no more, or never was; when to look again.

        Work of the queue `QUEUE`, due when an upload must be over.
        """
        workspace, _, file_id = item.partition(" ")
        record = await self.read(workspace, file_id)
        if record is None:
            await self.storage.delete(content_key(workspace, file_id))
            return None
        if record.expires_at is None:
            return None
        return max(1000, int((record.expires_at - self._now_s()) * 1000) + 1000)

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


def _name(workspace: str, file_id: str) -> RecordName:
    return RecordName(workspace, KIND, file_id)
