"""
Around every request: its exchange, its place in the count, CORS, and its access line.

Outermost, so that it also sees what the router refuses.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.access_log import AccessLog
from gateway.asgi import ASGIApp, Receive, Scope, Send
from gateway.cors import Cors
from gateway.errors import ClientGone
from gateway.exchange import Exchange, exchange_of
from gateway.telemetry import Telemetry


class EdgeMiddleware:
    """
    Opens an exchange for each request and reports how it ended.

    `exact` has the handlers of whole paths, which need no router: 50 us a request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        exact: Mapping[str, ASGIApp],
        telemetry: Telemetry,
        access_log: AccessLog,
        cors: Cors,
        write_timeout_s: float,
    ) -> None:
        self._app = app
        self._exact = exact
        self._telemetry = telemetry
        self._access_log = access_log
        self._cors = cors
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Lifespan events, for servers that send them; ours does not.
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, write_timeout_s=self._write_timeout_s)
        record = exchange.record
        with self._telemetry.in_flight():
            try:
                app, scope = self._application(scope, exchange)
                await app(scope, receive, send)
            except ClientGone:
                # Left before a refusal was sent; nginx's number for it.
                record.outcome, record.status = "client_gone", 499
            finally:
                self._telemetry.request(
                    record.route, record.outcome, exchange.elapsed_s
                )
                self._access_log.write(exchange, scope["method"])

    def _application(self, scope: Scope, exchange: Exchange) -> tuple[ASGIApp, Scope]:
        """What answers the request, and as which one."""
        scope["llmtune.exchange"] = exchange
        headers, method = exchange.headers, scope["method"]
        if method == "OPTIONS" and b"access-control-request-method" in headers:
            return self._preflight, scope
        cors = self._cors.headers(headers.get(b"origin"))
        if cors:
            exchange.add_headers(cors)
        if method == "HEAD":
            # Answered as its GET would be; the server, which keeps the original scope,
            # leaves out the body.
            scope = {**scope, "method": "GET"}
        return self._exact.get(scope["path"], self._app), scope

    async def _preflight(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive, send
        exchange = exchange_of(scope)
        requested = exchange.headers.get(b"access-control-request-headers") or b""
        exchange.record.route = "_preflight"
        origin = exchange.headers.get(b"origin")
        exchange.add_headers(self._cors.preflight(origin, requested))
        await exchange.start(204, ())
        await exchange.write(b"", more=False)
