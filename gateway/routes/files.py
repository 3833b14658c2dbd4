"""`/v1/files`: OpenAI's, for its SDKs as they are; bytes go through, never held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from gateway.auth import Principal
from gateway.errors import (
    Header,
    LimitExceeded,
    ObjectNotFound,
    RouteNotFound,
    StoreUnavailable,
)
from gateway.exchange import Exchange
from gateway.files.service import FileRecord, FileService
from gateway.fine_tuning.urls import TuneUrls
from gateway.presence import Attendance, Presence
from gateway.routes.door import Door, Handle, Route
from gateway.routes.kept import unavailable_as_503
from gateway.routes.pages import cursor_of, list_of
from gateway.routes.uploading import Uploads
from gateway.storage.port import ObjectMissing
from policies.jobs.port import MAX_LISTED

USUAL_LIMIT = MOST_LIMIT = 10_000


class FileRoutes:
    """Uploads, lists, shows, downloads and deletes."""

    def __init__(
        self,
        door: Door,
        files: FileService,
        *,
        urls: TuneUrls,
        attendance: Attendance,
        max_bytes: int,
    ) -> None:
        self._door = door
        self._files = files
        self._urls = urls
        self._attendance = attendance
        self._uploads = Uploads(door, files, max_bytes=max_bytes)

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
        try:
            with Presence(exchange.wire, self._attendance), unavailable_as_503():
                record = await self._uploads.take(exchange, principal)
        except LimitExceeded:
            # Not one of those that every answer tells of.
            await self._door.show_limits(exchange)
            raise
        await self._door.respond_json(exchange, record.shown())

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
        await self._door.show_limits(exchange)
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
        if exchange.wire.head.method == "HEAD":
            await self._require_content(workspace, record)
            await exchange.start(200, _headers_of(record))
            await exchange.write(b"", more=False)
            return
        with Presence(exchange.wire, self._attendance) as presence:
            presence.listen()
            await self._send_content(exchange, workspace, record)
            presence.conclude()
            await exchange.write(b"", more=False)

    async def _require_content(self, workspace: str, record: FileRecord) -> None:
        with unavailable_as_503():
            if await self._files.size(workspace, record.id) is None:
                raise ObjectNotFound("File", record.id)

    async def _send_content(
        self, exchange: Exchange, workspace: str, record: FileRecord
    ) -> None:
        """As many bytes as were announced, or a broken connection: never others."""
        left = record.bytes
        async for chunk in self._content(workspace, record.id):
            left -= len(chunk)
            if left < 0:
                break
            if not exchange.is_started:
                await exchange.start(200, _headers_of(record))
            await exchange.write(chunk, more=True)
        if left:
            raise StoreUnavailable("The file's bytes are not those that were uploaded.")
        if not exchange.is_started:
            await exchange.start(200, _headers_of(record))

    async def _content(self, workspace: str, file_id: str) -> AsyncIterator[bytes]:
        with unavailable_as_503():
            try:
                async for chunk in self._files.open(workspace, file_id):
                    yield chunk
            except ObjectMissing:
                raise ObjectNotFound("File", file_id) from None

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


def _headers_of(record: FileRecord) -> tuple[Header, ...]:
    name = quote(record.filename, safe="")
    return (
        (b"content-type", b"application/octet-stream"),
        (b"content-length", b"%d" % record.bytes),
        (b"content-disposition", f"attachment; filename*=UTF-8''{name}".encode()),
    )
