"""
Around every request: its exchange, its place in the count, CORS, and its access line.

Outermost, so that it also sees what the router refuses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from gateway.access_log import AccessLog
from gateway.asgi import ASGIApp
from gateway.cors import Cors
from gateway.errors import ClientGone
from gateway.exchange import EXCHANGE, Exchange
from gateway.record import Record
from gateway.telemetry.metrics import Telemetry
from gateway.wire import Wire

if TYPE_CHECKING:
    from gateway.tracing.tracing import Tracing

# Answers an exchange of this method.
Begin: TypeAlias = Callable[[Exchange, str], Awaitable[None]]


def _is_whole_answer(record: Record) -> bool:
    """Whether LLMTune answered it whole, and for itself."""
    is_ok = record.outcome == "ok" and not record.is_stream
    return is_ok and record.output_tokens is not None


class EdgeMiddleware:
    """
    Opens an exchange for each request and reports how it ended.

    `exact` has the handlers of whole paths, which need no router: 50 us a request.
    """

    def __init__(
        self,
        router: ASGIApp,
        *,
        exact: Mapping[str, Begin],
        telemetry: Telemetry,
        access_log: AccessLog,
        cors: Cors,
        write_timeout_s: float,
        tracing: Tracing | None = None,
    ) -> None:
        self._router = router
        self._exact = exact
        self._telemetry = telemetry
        self._access_log = access_log
        self._cors = cors
        self._write_timeout_s = write_timeout_s
        self._tracing = tracing

    async def __call__(self, wire: Wire) -> None:
        exchange = Exchange(wire, write_timeout_s=self._write_timeout_s)
        record, method = exchange.record, wire.head.method
        if self._tracing is not None:
            self._tracing.begin(exchange)
        self._telemetry.requests_in_flight += 1
        try:
            await self._answering(exchange, wire, method)
        except ClientGone:
            # Left before a refusal was sent; nginx's number for it.
            record.outcome, record.status = "client_gone", 499
        finally:
            self._telemetry.requests_in_flight -= 1
            took_s = exchange.elapsed_s
            trace_id = exchange.trace_id if exchange.trace is not None else None
            added_s = took_s - exchange.waited_s if _is_whole_answer(record) else None
            self._telemetry.request(
                record.route, record.outcome, took_s, added_s, trace_id
            )
            self._access_log.write(exchange, method)
            if self._tracing is not None and exchange.trace is not None:
                self._tracing.end(exchange, exchange.trace)

    def _answering(
        self, exchange: Exchange, wire: Wire, method: str
    ) -> Awaitable[None]:
        """The answer on its way: a coroutine of whoever gives it."""
        headers = exchange.headers
        if method == "OPTIONS" and b"access-control-request-method" in headers:
            return self._preflight(exchange)
        cors = self._cors.headers(headers.get(b"origin"))
        if cors:
            exchange.add_headers(cors)
        if method == "HEAD":
            # Answered as its GET would be; the wire leaves out the body.
            method = "GET"
        begin = self._exact.get(wire.head.path)
        if begin is not None:
            return begin(exchange, method)
        scope = wire.head.to_scope()
        scope["method"] = method
        scope[EXCHANGE] = exchange
        return self._router(scope, wire.receive, wire.send)

    async def _preflight(self, exchange: Exchange) -> None:
        requested = exchange.headers.get(b"access-control-request-headers") or b""
        exchange.record.route = "_preflight"
        origin = exchange.headers.get(b"origin")
        exchange.add_headers(self._cors.preflight(origin, requested))
        await exchange.start(204, ())
        await exchange.write(b"", more=False)
