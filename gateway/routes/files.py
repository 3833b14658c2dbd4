"""`/v1/files`: OpenAI's, for its SDKs as they are; bytes go through, never held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast
from urllib.parse import quote

import msgspec

from gateway.auth import Principal
from gateway.errors import (
    ClientGone,
    Header,
    InvalidRequest,
    ObjectNotFound,
    RequestTooLarge,
    RouteNotFound,
)
from gateway.exchange import Exchange
from gateway.files.service import (
    UPLOADED,
    FileRecord,
    FileService,
    Purpose,
    content_key,
    new_file_id,
)
from gateway.fine_tuning.urls import TuneUrls
from gateway.routes.door import Door, Handle, Route
from gateway.routes.kept import unavailable_as_503
from gateway.routes.pages import cursor_of, list_of
from gateway.storage.multipart import (
    Field,
    FilePart,
    FormBounds,
    FormTooLarge,
    MalformedForm,
    parts,
)
from gateway.storage.port import ObjectMissing, StorageUnavailable, StoredObject
from policies.jobs.port import MAX_LISTED

USUAL_LIMIT = MOST_LIMIT = 10_000
SHORTEST_KEPT_S, LONGEST_KEPT_S = 3600, 2_592_000
# A form's fields and their frames, beside the file itself.
FORM_BYTES: Final = 256 * 1024
MAX_FILENAME_CHARS: Final = 512


class Upload(msgspec.Struct):
    """What has come of a form."""

    fields: dict[str, str] = msgspec.field(default_factory=dict)
    filename: str = ""
    stored: StoredObject | None = None

    @property
    def expires_after_s(self) -> int | None:
        return _expires_after_s(self.fields)

    def check(self) -> None:
        """InvalidRequest if it is no file that can be kept."""
        if self.stored is None:
            raise InvalidRequest("The form has no file.", param="file")
        if self.fields.get("purpose") not in UPLOADED:
            allowed = ", ".join(sorted(UPLOADED))
            problem = f"purpose has to be one of {allowed}."
            raise InvalidRequest(problem, param="purpose")
        _ = self.expires_after_s


class FileRoutes:
    """Uploads, lists, shows, downloads and deletes."""

    def __init__(
        self, door: Door, files: FileService, *, urls: TuneUrls, max_bytes: int
    ) -> None:
        self._door = door
        self._files = files
        self._urls = urls
        self._max_bytes = max_bytes
        self._bounds = FormBounds(max_bytes=max_bytes + FORM_BYTES)

    def routes(self) -> list[Route]:
        return [self._door.tree("/v1/files", "/files", find=self._find)]

    def _find(self, below: list[str]) -> tuple[str, Mapping[str, Handle]] | None:
        match below:
            case []:
                return "", {"GET": self.list, "POST": self.upload}
            case ["handover", token] | ["handover", token, _]:
                return "/handover/{token}", {
                    "GET": partial(self.hand_over, token=token)
                }
            case [file_id]:
                return "/{id}", {
                    "GET": partial(self.show, file_id=file_id),
                    "DELETE": partial(self.delete, file_id=file_id),
                }
            case [file_id, "content"]:
                return "/{id}/content", {"GET": partial(self.content, file_id=file_id)}
        return None

    async def upload(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        file_id = new_file_id()
        with unavailable_as_503():
            try:
                upload = await self._receive(exchange, principal, file_id)
                upload.check()
            except BaseException:
                # Nobody will ask for it; and if this fails, it is swept in a day.
                with suppress(StorageUnavailable):
                    await self._files.storage.delete(
                        content_key(principal.workspace, file_id)
                    )
                raise
            # From here its bytes stay: whoever cannot be told may have it all the same.
            record = await self._register(principal, file_id, upload)
        await self._door.respond_json(exchange, record.shown())

    async def _receive(
        self, exchange: Exchange, principal: Principal, file_id: str
    ) -> Upload:
        content_type = exchange.headers.get(b"content-type", b"")
        upload = Upload()
        body = self._door.stream(exchange, self._max_bytes + FORM_BYTES)
        try:
            async for part in parts(content_type, body, self._bounds):
                if isinstance(part, Field):
                    upload.fields[part.name] = part.value
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
        bounded = _bounded(aiter(part), self._max_bytes)
        upload.stored = await self._files.receive(principal.workspace, file_id, bounded)

    async def _register(
        self, principal: Principal, file_id: str, upload: Upload
    ) -> FileRecord:
        assert upload.stored is not None  # noqa: S101 - checked
        return await self._files.register(
            principal.workspace,
            file_id,
            upload.stored,
            filename=upload.filename,
            purpose=cast(Purpose, upload.fields["purpose"]),
            expires_after_s=upload.expires_after_s,
        )

    async def list(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        cursor = cursor_of(exchange, usual=USUAL_LIMIT, most=MOST_LIMIT)
        limit = min(cursor.limit, MAX_LISTED - 1)
        with unavailable_as_503():
            found = await self._files.page(
                principal.workspace,
                after=cursor.after,
                limit=limit + 1,
                newest_first=cursor.newest_first,
                purpose=cursor.said.get("purpose"),
            )
        shown = [each.shown() for each in found[:limit]]
        page = list_of(shown, has_more=len(found) > limit)
        await self._door.respond_json(exchange, page)

    async def show(self, exchange: Exchange, file_id: str) -> None:
        _, record = await self._found(exchange, file_id)
        await self._door.respond_json(exchange, record.shown())

    async def content(self, exchange: Exchange, file_id: str) -> None:
        principal, record = await self._found(exchange, file_id)
        await self._send(exchange, principal.workspace, record)

    async def hand_over(self, exchange: Exchange, token: str) -> None:
        """A file to LLMTune, which has no key; what was signed lets it in."""
        handover = self._urls.handover_of(token)
        if handover is None:
            raise RouteNotFound("There is no such route.")
        with unavailable_as_503():
            record = await self._files.read(handover.workspace, handover.file_id)
        if record is None:
            raise RouteNotFound("There is no such route.")
        exchange.record.workspace = handover.workspace
        await self._send(exchange, handover.workspace, record)

    async def _send(
        self, exchange: Exchange, workspace: str, record: FileRecord
    ) -> None:
        file_id = record.id
        chunks = self._files.open(workspace, file_id)
        with unavailable_as_503():
            try:
                first = await anext(chunks, b"")
            except ObjectMissing:
                raise ObjectNotFound("File", file_id) from None
        await exchange.start(200, _headers_of(record))
        await exchange.write(first, more=True)
        async for chunk in chunks:
            if exchange.wire.is_gone:
                raise ClientGone
            await exchange.write(chunk, more=True)
        await exchange.write(b"", more=False)

    async def delete(self, exchange: Exchange, file_id: str) -> None:
        principal, _ = await self._found(exchange, file_id)
        with unavailable_as_503():
            await self._files.delete(principal.workspace, file_id)
        shown: dict[str, Any] = {"id": file_id, "object": "file", "deleted": True}
        await self._door.respond_json(exchange, shown)

    async def _found(
        self, exchange: Exchange, file_id: str
    ) -> tuple[Principal, FileRecord]:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            record = await self._files.read(principal.workspace, file_id)
        if record is None:
            raise ObjectNotFound("File", file_id)
        return principal, record


async def _bounded(chunks: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > most:
            raise _too_large(most)
        yield chunk


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
    seconds = int(text[:9]) if text and text.isascii() and text.isdigit() else 0
    if not SHORTEST_KEPT_S <= seconds <= LONGEST_KEPT_S:
        problem = f"has to be {SHORTEST_KEPT_S} to {LONGEST_KEPT_S}"
        param = "expires_after[seconds]"
        raise InvalidRequest(f"{param} {problem}.", param=param)
    return seconds


def _headers_of(record: FileRecord) -> tuple[Header, ...]:
    name = quote(record.filename, safe="")
    return (
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % record.bytes),
        (b"content-disposition", f"attachment; filename*=UTF-8''{name}".encode()),
    )
