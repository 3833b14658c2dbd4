"""`/v1/batches`: OpenAI's, for its SDKs as they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final

import msgspec

from gateway.batches.service import BatchRequest, BatchService
from gateway.exchange import Exchange
from gateway.replay.header import key_in
from gateway.routes.door import Door, Handle, Route
from gateway.routes.kept import unavailable_as_503
from gateway.routes.pages import cursor_of, list_of
from gateway.translation.body import decode_body

USUAL_LIMIT, MOST_LIMIT = 20, 100
_decoder: Final = msgspec.json.Decoder(BatchRequest)
# The body has three ids and some metadata.
MAX_BODY_BYTES: Final = 64 * 1024


class BatchRoutes:
    """Creates, shows, lists and cancels batches."""

    def __init__(self, door: Door, batches: BatchService) -> None:
        self._door = door
        self._batches = batches

    def routes(self) -> list[Route]:
        return [self._door.tree("/v1/batches", "/batches", find=self._find)]

    def _find(self, below: list[str]) -> tuple[str, Mapping[str, Handle]] | None:
        match below:
            case []:
                return "", {"GET": self.list, "POST": self.create}
            case [batch_id]:
                return "/{id}", {"GET": partial(self.show, batch_id=batch_id)}
            case [batch_id, "cancel"]:
                cancel = partial(self.cancel, batch_id=batch_id)
                return "/{id}/cancel", {"POST": cancel}
        return None

    async def create(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        raw = await self._door.read(exchange, MAX_BODY_BYTES)
        request = decode_body(raw, _decoder)
        key = key_in(exchange.headers)
        with unavailable_as_503():
            shown = await self._batches.create(principal, request, key)
        await self._door.respond_json(exchange, shown)

    async def show(self, exchange: Exchange, batch_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            shown = await self._batches.show(principal.workspace, batch_id)
        await self._door.respond_json(exchange, shown)

    async def list(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        cursor = cursor_of(exchange, usual=USUAL_LIMIT, most=MOST_LIMIT)
        with unavailable_as_503():
            found = await self._batches.page(
                principal.workspace, cursor.after, cursor.limit + 1
            )
        page = list_of(found[: cursor.limit], has_more=len(found) > cursor.limit)
        await self._door.respond_json(exchange, page)

    async def cancel(self, exchange: Exchange, batch_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            shown = await self._batches.cancel(principal.workspace, batch_id)
        await self._door.respond_json(exchange, shown)
