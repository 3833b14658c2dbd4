"""
Files of a workspace: their records in the job store, their bytes in the storage.

The bytes come first and go last: a record never names what is not there, and what a
crash leaves without a record is nobody's and is swept away.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.storage.port import Storage, StoredObject
from policies.jobs.port import JobStore, RecordName, new_record_id

KIND: Final = "file"
# Of files whose bytes may have to go.
QUEUE: Final = "files"
# No upload takes so long.
UNREGISTERED_MS: Final = 86_400_000

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
        stored = await self.receive(workspace, file_id, chunks)
        return await self.register(
            workspace,
            file_id,
            stored,
            filename=filename,
            purpose=purpose,
            expires_after_s=expires_after_s,
        )

    async def receive(
        self, workspace: str, file_id: str, chunks: AsyncIterator[bytes]
    ) -> StoredObject:
        """Keep the bytes of a file that is to be registered within a day."""
        item = f"{workspace} {file_id}"
        await self._jobs.schedule(QUEUE, item, in_ms=UNREGISTERED_MS)
        return await self.storage.put(content_key(workspace, file_id), chunks)

    async def register(
        self,
        workspace: str,
        file_id: str,
        stored: StoredObject,
        *,
        filename: str,
        purpose: Purpose,
        expires_after_s: int | None,
    ) -> FileRecord:
        """Make a file of bytes that were received."""
        now_s = int(self._now_s())
        record = FileRecord(
            id=file_id,
            bytes=stored.bytes,
            created_at=now_s,
            filename=filename,
            purpose=purpose,
            expires_at=None if expires_after_s is None else now_s + expires_after_s,
            sha256=stored.sha256,
        )
        ttl_s = expires_after_s or LONGEST_KEPT_S
        name = _name(workspace, file_id)
        await self._jobs.create(name, _encode(record), ttl_s * 1000)
        return record

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
        while len(matching) < limit:
            found = await self._jobs.page(
                workspace, KIND, after=after, limit=limit, newest_first=newest_first
            )
            records = [_decode(each.body) for each in found]
            matching += [x for x in records if purpose is None or x.purpose == purpose]
            if len(found) < limit:
                break
            after = found[-1].record_id
        return matching[:limit]

    def open(self, workspace: str, file_id: str) -> AsyncIterator[bytes]:
        """The bytes of a file; ObjectMissing at its first if there are none."""
        return self.storage.open(content_key(workspace, file_id))

    async def delete(self, workspace: str, file_id: str) -> bool:
        """Forget a file; False if there is none."""
        was_there = await self._jobs.delete(_name(workspace, file_id))
        await self.storage.delete(content_key(workspace, file_id))
        return was_there

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
        self, workspace: str, file_id: str, *, most_bytes: int | None = None
    ) -> AsyncIterator[bytes]:
        """Its lines without their ends, each cut at `most_bytes`; ObjectMissing."""
        async for line in split_lines(self.open(workspace, file_id), most_bytes):
            yield line


async def split_lines(
    chunks: AsyncIterator[bytes], most_bytes: int | None = None
) -> AsyncIterator[bytes]:
    """Lines of bytes that come in pieces; of a longer one, so much."""
    # Of the line that has not ended. Only what is new is looked through: a file may be
    # one line.
    held = bytearray()
    async for chunk in chunks:
        first, *others = chunk.split(b"\n")
        held += _room(first, held, most_bytes)
        for other in others:
            yield bytes(held)
            held = bytearray(_room(other, b"", most_bytes))
    if held:
        yield bytes(held)


def _room(piece: bytes, held: bytes | bytearray, most_bytes: int | None) -> bytes:
    """So much of a piece as a line still takes."""
    return piece if most_bytes is None else piece[: max(0, most_bytes - len(held))]


def new_file_id(now_s: Callable[[], float] = time.time) -> str:
    return new_record_id("file-", int(now_s() * 1000))


def folder_of(workspace: str) -> str:
    """Where a workspace's objects are: its name may hold what a key may not."""
    return hashlib.sha256(workspace.encode()).hexdigest()[:32]


def content_key(workspace: str, file_id: str) -> str:
    return f"files/{folder_of(workspace)}/{file_id}"


def _name(workspace: str, file_id: str) -> RecordName:
    return RecordName(workspace, KIND, file_id)
