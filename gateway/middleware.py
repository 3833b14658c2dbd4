"""
Around every request: its exchange, its place in the count, CORS, and its access line.

Outermost, so that it also sees what the router refuses.
"""

from __future__ import annotations

from typing import Any

from gateway.access_log import AccessLog
from gateway.asgi import ASGIApp, Receive, Scope, Send
from gateway.cors import Cors
from gateway.errors import Overloaded
from gateway.exchange import Exchange
from gateway.telemetry import Telemetry


class EdgeMiddleware:
    """Opens an exchange for each request and reports how it ended."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        telemetry: Telemetry,
        access_log: AccessLog,
        cors: Cors,
        max_in_flight: int,
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._access_log = access_log
        self._cors = cors
        self._max_in_flight = max_in_flight
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        # Counted before the first await, so that a drain sees what has only just come.
        self.in_flight += 1
        self._telemetry.in_flight.set(self.in_flight)
        try:
            await self._serve(scope, exchange, send)
        finally:
            self.in_flight -= 1
            self._telemetry.in_flight.set(self.in_flight)
            record = exchange.record
            self._telemetry.request(record.route, record.outcome, exchange.elapsed_s)
            self._access_log.write(exchange, scope["method"])

    async def _serve(self, scope: Any, exchange: Exchange, send: Send) -> None:
        origin = exchange.header(b"origin")
        if scope["method"] == "OPTIONS" and (
            exchange.header(b"access-control-request-method") is not None
        ):
            requested = exchange.header(b"access-control-request-headers") or b""
            exchange.record.route = "_preflight"
            exchange.add_headers(self._cors.preflight(origin, requested))
            await exchange.start(204, ())
            await exchange.write(b"", more=False)
            return
        exchange.add_headers(self._cors.headers(origin))
        if self.in_flight > self._max_in_flight:
            await exchange.fail(
                Overloaded("This replica is at its limit.", retry_after_ms=1000)
            )
            return
        inner = dict(scope)
        inner["llmtune.exchange"] = exchange
        # A HEAD is answered as its GET would be; uvicorn, which keeps the original
        # scope, leaves out the body.
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        await self._app(inner, exchange.receive, send)
