"""
For those who operate the gateway: liveness, readiness, metrics, the API's description.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.exchange import JSON_TYPE, Exchange
from gateway.openapi.document import openapi_document
from gateway.routes.door import Door, Route
from gateway.telemetry.exposition import AskFamilies, render


class OperationRoutes:
    """Routes that need no key and tell no secret."""

    def __init__(
        self,
        *,
        door: Door,
        families: AskFamilies,
        readiness: Callable[[], dict[str, Any]],
        has_metrics: bool,
    ) -> None:
        self._door = door
        self._families = families
        self._readiness = readiness
        self._has_metrics = has_metrics

    def routes(self) -> list[Route]:
        routes = [
            self._door.route("/livez", GET=self.live),
            self._door.route("/readyz", GET=self.ready),
            self._door.route("/openapi.json", GET=self.openapi),
        ]
        if self._has_metrics:
            routes.append(self._door.route("/metrics", GET=self.metrics))
        return routes

    async def live(self, exchange: Exchange) -> None:
        # Touches nothing: a pod is not restarted because something beside it is down.
        await exchange.respond(200, b'{"status":"live"}')

    async def ready(self, exchange: Exchange) -> None:
        # Never asks the upstream: its outage is no reason to take every replica away.
        details = self._readiness()
        status = 200 if details["status"] == "ready" else 503
        await exchange.respond(status, msgspec.json.encode(details))

    async def metrics(self, exchange: Exchange) -> None:
        accept = (exchange.headers.get(b"accept") or b"").decode("latin-1")
        body, content_type = render(await self._families(), accept)
        await exchange.respond(200, body, ((b"content-type", content_type.encode()),))

    async def openapi(self, exchange: Exchange) -> None:
        await exchange.respond(200, openapi_document(), (JSON_TYPE,))
