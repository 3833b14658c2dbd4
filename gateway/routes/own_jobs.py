"""LLMTune's own batches and fine-tunes: passed through, under the plan's limits."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeAlias

from gateway.auth import Authenticator, Principal
from gateway.errors import ObjectNotFound, UpstreamRefused
from gateway.exchange import Exchange
from gateway.fine_tuning.answers import read_job_body
from gateway.fine_tuning.owners import Owners
from gateway.presence import Attendance, Presence
from gateway.routes.completions import CompletionRoutes
from gateway.routes.door import Door, Handle, Route
from gateway.routes.kept import unavailable_as_503
from gateway.translation.own_jobs import BatchTranslator, FineTuneTranslator
from gateway.upstream.client import Credentials

ReadJob: TypeAlias = Callable[[Credentials, str], Awaitable[bytes]]


class OwnJobRoutes:
    """Creates jobs by the path of every completion, and shows fine-tunes."""

    def __init__(
        self,
        *,
        door: Door,
        completions: CompletionRoutes,
        owners: Owners,
        authenticator: Authenticator,
        attendance: Attendance,
        read_job: ReadJob,
    ) -> None:
        self._door = door
        self._completions = completions
        self._owners = owners
        self._authenticator = authenticator
        self._attendance = attendance
        self._read_job = read_job

    def routes(self) -> list[Route]:
        return [
            self._door.route("/v1/batch/inference", POST=self.batch),
            self._door.tree("/v1/fine-tune", find=self._find),
        ]

    def _find(self, below: list[str]) -> tuple[str, Mapping[str, Handle]] | None:
        match below:
            case []:
                return "", {"POST": self.fine_tune}
            case [job_id]:
                return "/{id}", {"GET": partial(self.show, job_id=job_id)}
        return None

    async def batch(self, exchange: Exchange) -> None:
        await self._completions.create_job(exchange, BatchTranslator)

    async def fine_tune(self, exchange: Exchange) -> None:
        await self._completions.create_job(exchange, FineTuneTranslator, self._remember)

    async def _remember(self, principal: Principal, base: str, body: bytes) -> None:
        # Before the caller has the id: an unknown owner could never ask.
        with unavailable_as_503():
            await self._owners.note(
                principal.workspace, base, read_job_body(body), int(time.time())
            )

    async def show(self, exchange: Exchange, job_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        with Presence(exchange.wire, self._attendance) as presence:
            presence.listen()
            with unavailable_as_503():
                base = await self._owners.base_of(principal.workspace, job_id)
                if base is None:
                    raise ObjectNotFound("fine-tune", job_id)
            body = await self._read(principal, job_id)
        exchange.record.upstream_route = "fine_tune"
        await self._remember(principal, base, body)
        await exchange.respond(200, body)

    async def _read(self, principal: Principal, job_id: str) -> bytes:
        try:
            return await self._read_job(
                self._authenticator.credentials(principal), job_id
            )
        except UpstreamRefused as error:
            self._authenticator.hear_refusal(principal, error)
            raise
