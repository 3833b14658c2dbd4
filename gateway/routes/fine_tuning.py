"""`/v1/fine_tuning/jobs`: OpenAI's, for its SDKs as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Final

from gateway.errors import UnsupportedOperation
from gateway.exchange import Exchange
from gateway.fine_tuning.request import read_request
from gateway.fine_tuning.service import TuneService
from gateway.replay.header import key_in
from gateway.routes.door import Door, Handle, Route
from gateway.routes.kept import unavailable_as_503
from gateway.routes.pages import Cursor, cursor_of, list_of

USUAL_LIMIT, MOST_LIMIT = 20, 100
# The body has two ids, a few numbers and some metadata.
MAX_BODY_BYTES: Final = 64 * 1024
_METADATA: Final = re.compile(r"metadata\[(.{1,64})\]")


class FineTuningRoutes:
    """Creates, shows, lists and cancels fine-tunes, and shows their logs."""

    def __init__(self, door: Door, tunes: TuneService) -> None:
        self._door = door
        self._tunes = tunes

    def routes(self) -> list[Route]:
        return [
            self._door.tree(
                "/v1/fine_tuning/jobs", "/fine_tuning/jobs", find=self._find
            )
        ]

    def _find(self, below: list[str]) -> tuple[str, Mapping[str, Handle]] | None:
        match below:
            case []:
                return "", {"GET": self.list, "POST": self.create}
            case [job_id]:
                return "/{id}", {"GET": partial(self.show, job_id=job_id)}
            case [job_id, "cancel"]:
                return "/{id}/cancel", {"POST": partial(self.cancel, job_id=job_id)}
            case [job_id, "events"]:
                return "/{id}/events", {"GET": partial(self.events, job_id=job_id)}
            case [job_id, "checkpoints"]:
                checkpoints = partial(self.checkpoints, job_id=job_id)
                return "/{id}/checkpoints", {"GET": checkpoints}
            case [job_id, "pause" | "resume" as verb]:
                refuse = partial(self.refuse, job_id=job_id, verb=verb)
                return f"/{{id}}/{verb}", {"POST": refuse}
        return None

    async def create(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        request = read_request(await self._door.read(exchange, MAX_BODY_BYTES))
        exchange.record.model = request.model
        with unavailable_as_503():
            shown = await self._tunes.create(
                principal, request, key_in(exchange.headers)
            )
        await self._door.respond_json(exchange, shown)

    async def show(self, exchange: Exchange, job_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            shown = await self._tunes.show(principal.workspace, job_id)
        await self._door.respond_json(exchange, shown)

    async def list(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        cursor = cursor_of(exchange, usual=USUAL_LIMIT, most=MOST_LIMIT)
        with unavailable_as_503():
            found = await self._tunes.page(
                principal.workspace, cursor.after, cursor.limit + 1, _metadata(cursor)
            )
        page = list_of(found[: cursor.limit], has_more=len(found) > cursor.limit)
        await self._door.respond_json(exchange, page)

    async def events(self, exchange: Exchange, job_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        cursor = cursor_of(exchange, usual=USUAL_LIMIT, most=MOST_LIMIT)
        with unavailable_as_503():
            found = await self._tunes.events(
                principal.workspace, job_id, cursor.after, cursor.limit + 1
            )
        page = list_of(found[: cursor.limit], has_more=len(found) > cursor.limit)
        await self._door.respond_json(exchange, page)

    async def checkpoints(self, exchange: Exchange, job_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            await self._tunes.require(principal.workspace, job_id)
        # LLMTune tells of none.
        await self._door.respond_json(exchange, list_of([], has_more=False))

    async def cancel(self, exchange: Exchange, job_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            shown = await self._tunes.cancel(principal.workspace, job_id)
        await self._door.respond_json(exchange, shown)

    async def refuse(self, exchange: Exchange, job_id: str, verb: str) -> None:
        principal = await self._door.authenticate(exchange)
        with unavailable_as_503():
            await self._tunes.require(principal.workspace, job_id)
        raise UnsupportedOperation(f"LLMTune cannot {verb} a fine-tune.")


def _metadata(cursor: Cursor) -> dict[str, str]:
    """What `metadata[key]=value` asks for."""
    return {
        found[1]: value
        for name, value in cursor.said.items()
        if (found := _METADATA.fullmatch(name))
    }
