"""An upload as it comes: its form read, its file kept, and nothing left on an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Final, cast
from weakref import WeakValueDictionary

import msgspec

from gateway.auth import Principal
from gateway.errors import InvalidRequest, RequestTooLarge
from gateway.exchange import Exchange
from gateway.files.service import (
    UPLOADED,
    FileRecord,
    FileService,
    NewFile,
    Purpose,
    new_file_id,
)
from gateway.replay.header import key_in
from gateway.routes.door import Door
from gateway.routes.pages import whole_number
from gateway.storage.multipart import (
    Field,
    FilePart,
    FormBounds,
    FormTooLarge,
    MalformedForm,
    parts,
)
from gateway.storage.port import StorageUnavailable, StoredObject

SHORTEST_KEPT_S, LONGEST_KEPT_S = 3600, 2_592_000
# A form's fields and their frames, beside the file itself.
FORM_BYTES: Final = 256 * 1024
MAX_FILENAME_CHARS: Final = 512

# Of a workspace, on one process; others wait. Each may hold some parts of 5 MiB.
UPLOADS_TOGETHER: Final = 8


class Upload(msgspec.Struct):
    """What has come of a form."""

    fields: dict[str, str] = msgspec.field(default_factory=dict)
    filename: str = ""
    stored: StoredObject | None = None

    def checked(self) -> NewFile:
        """The file it is; InvalidRequest if it is none that can be kept."""
        if self.stored is None:
            raise InvalidRequest("The form has no file.", param="file")
        if self.fields.get("purpose") not in UPLOADED:
            allowed = ", ".join(sorted(UPLOADED))
            problem = f"purpose has to be one of {allowed}."
            raise InvalidRequest(problem, param="purpose")
        return NewFile(
            filename=self.filename,
            purpose=cast(Purpose, self.fields["purpose"]),
            expires_after_s=_expires_after_s(self.fields),
            stored=self.stored,
        )


class Uploads:
    """Takes the files of one process' callers."""

    def __init__(self, door: Door, files: FileService, *, max_bytes: int) -> None:
        self._door = door
        self._files = files
        self._max_bytes = max_bytes
        self._bounds = FormBounds(max_bytes=max_bytes + FORM_BYTES)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def take(self, exchange: Exchange, principal: Principal) -> FileRecord:
        """The file that a request brings, registered."""
        async with self._turn(principal.workspace):
            return await self._take(exchange, principal)

    def _turn(self, workspace: str) -> asyncio.Semaphore:
        turn = self._turns.get(workspace)
        if turn is None:
            turn = self._turns[workspace] = asyncio.Semaphore(UPLOADS_TOGETHER)
        return turn

    async def _take(self, exchange: Exchange, principal: Principal) -> FileRecord:
        workspace, file_id = principal.workspace, new_file_id()
        key = key_in(exchange.headers)
        if key is None:
            # The file that a key stands for may be there already.
            await self._files.require_room(principal, _least_bytes(exchange))
        is_kept = False
        try:
            new = (await self._receive(exchange, principal, file_id)).checked()
            first_id = await self._files.id_under_key(principal, key, new, file_id)
            if first_id != file_id:
                return await self._files.repeat(principal, first_id, new, file_id)
            await self._files.count(principal, file_id, new)
            is_kept = True
        finally:
            if not is_kept:
                # Nobody will ask for it; and if this fails, it is swept in a day.
                with suppress(StorageUnavailable):
                    await self._files.forget_received(workspace, file_id)
        # From here its bytes stay: whoever cannot be told may have it all the same.
        return await self._files.register(workspace, file_id, new)

    async def _receive(
        self, exchange: Exchange, principal: Principal, file_id: str
    ) -> Upload:
        content_type = exchange.headers.get(b"content-type", b"")
        upload = Upload()
        body = self._door.stream(exchange, self._max_bytes + FORM_BYTES)
        try:
            async for part in parts(content_type, body, self._bounds):
                if isinstance(part, Field):
                    _add_field(upload.fields, part)
                else:
                    await self._receive_file(principal, file_id, part, upload)
        except FormTooLarge:
            raise _too_large(self._max_bytes) from None
        except MalformedForm as problem:
            raise InvalidRequest(f"The form cannot be read: {problem}.") from None
        return upload

    async def _receive_file(
        self, principal: Principal, file_id: str, part: FilePart, upload: Upload
    ) -> None:
        upload.filename = part.filename[:MAX_FILENAME_CHARS]
        chunks = bounded(aiter(part), self._max_bytes)
        upload.stored = await self._files.receive(principal.workspace, file_id, chunks)


def _least_bytes(exchange: Exchange) -> int:
    """What the file of a form that says its length has at least."""
    said = exchange.headers.get(b"content-length", b"0").decode("latin-1")
    length = whole_number(said, 0, 2**62)
    return 0 if length is None else max(0, length - FORM_BYTES)


def _add_field(fields: dict[str, str], field: Field) -> None:
    """Of two that differ nobody knows which was meant."""
    if field.name in fields:
        problem = f"The form has {field.name[:64]!r} twice."
        raise InvalidRequest(problem, param=field.name)
    fields[field.name] = field.value


async def bounded(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """
    The same bytes; RequestTooLarge at their end if there are more.

    The rest of such a form is small, and a client whose body was read hears why.
    """
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received <= most:
            yield chunk
    if received > most:
        raise _too_large(most)


def _too_large(most: int) -> RequestTooLarge:
    return RequestTooLarge(f"The file is larger than {most} bytes.")


def _expires_after_s(fields: Mapping[str, str]) -> int | None:
    anchor = fields.get("expires_after[anchor]")
    text = fields.get("expires_after[seconds]")
    if anchor is None and text is None:
        return None
    if anchor != "created_at":
        problem = "expires_after[anchor] has to be created_at."
        raise InvalidRequest(problem, param="expires_after[anchor]")
    seconds = whole_number(text or "", SHORTEST_KEPT_S, LONGEST_KEPT_S)
    if seconds is None:
        problem = f"has to be {SHORTEST_KEPT_S} to {LONGEST_KEPT_S}"
        param = "expires_after[seconds]"
        raise InvalidRequest(f"{param} {problem}.", param=param)
    return seconds
