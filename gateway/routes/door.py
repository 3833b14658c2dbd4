"""
What every route shares: methods, authentication, the body, and how errors leave.

Routes are bare ASGI handlers in Litestar's router: its `@post` handlers parse, inject
and serialise what this gateway does itself, at twice the cost of the whole request.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from litestar.handlers import ASGIRouteHandler, asgi

from gateway.admission import Admission
from gateway.asgi import Receive, Scope, Send
from gateway.auth import Authenticator, Principal
from gateway.errors import (
    ClientGone,
    GatewayError,
    Header,
    InternalError,
    InvalidApiKey,
    LimitExceeded,
    MethodNotAllowed,
)
from gateway.exchange import Exchange, exchange_of
from gateway.settings import Settings
from gateway.translation.port import Translator

logger = logging.getLogger(__name__)

Handle: TypeAlias = Callable[[Exchange], Awaitable[None]]
Parse: TypeAlias = Callable[[bytes], Translator]

# The slowest body of this size takes about 3 ms, and a thread's hand-over 50 us.
PARSED_BESIDE_BYTES: Final = 128 * 1024

TRACE_HEADERS: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})

_encode: Final = msgspec.json.Encoder().encode


class Door:
    """Lets requests in, and errors out."""

    def __init__(
        self, settings: Settings, *, authenticator: Authenticator, admission: Admission
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._admission = admission

    def route(self, *paths: str, **handles: Handle) -> ASGIRouteHandler:
        """
        A handler for these paths with one function a method: `route("/x", GET=f)`.
        """
        allowed = ", ".join(sorted({*handles, "OPTIONS"} | _head_of(handles)))

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            exchange = exchange_of(scope)
            exchange.record.route = paths[0]
            await self.answer(exchange, _chosen(scope["method"], handles, allowed))

        return asgi(list(paths), copy_scope=False)(handle)

    async def answer(self, exchange: Exchange, handle: Handle) -> None:
        """Run a handler; whatever it raises becomes the one answer it should be."""
        try:
            try:
                await handle(exchange)
            except GatewayError as error:
                await self._fail(exchange, error)
            except ClientGone:
                raise
            except Exception as error:  # noqa: BLE001 - the last resort of every request
                await self._fail(exchange, internal_error(exchange, error))
        except ClientGone:
            exchange.record.outcome = "client_gone"
            # nginx's number for it: nobody reads this answer, but the log does.
            exchange.record.status = 499

    async def _fail(self, exchange: Exchange, error: GatewayError) -> None:
        if exchange.is_started:
            # Half an answer cannot be taken back; cut short, it is at least not taken
            # for a whole one.
            exchange.note(error)
            exchange.abort()
            return
        principal = exchange.principal
        is_decided = bool(exchange.limit_headers) or isinstance(error, LimitExceeded)
        if principal is not None and not is_decided:
            exchange.decided(await self._admission.inspect(principal))
        await exchange.fail(error)

    async def authenticate(self, exchange: Exchange) -> Principal:
        """The principal of this request; InvalidApiKey or StoreUnavailable."""
        record = exchange.record
        try:
            principal = await self._authenticator.authenticate(
                exchange.headers.get(b"authorization")
            )
        except InvalidApiKey as error:
            record.key_id = error.key_id
            raise
        exchange.principal = principal
        record.workspace, record.key_id = principal.workspace, principal.key_id
        record.plan = principal.plan.plan
        return principal

    async def read(self, exchange: Exchange, principal: Principal) -> bytes:
        """The body, within the gateway's bound and the plan's."""
        most = self._settings.http_max_body_bytes
        if principal.plan.request.max_body_bytes is not None:
            most = min(most, principal.plan.request.max_body_bytes)
        return await exchange.read_body(
            max_bytes=most, timeout_s=self._settings.http_body_timeout_s
        )

    async def parse(
        self, exchange: Exchange, principal: Principal, parse: Parse
    ) -> Translator:
        """The body as the request it is."""
        raw = await self.read(exchange, principal)
        if len(raw) > PARSED_BESIDE_BYTES:
            # A body made to be slow takes a second and more for 32 MiB; the others'
            # streams go on meanwhile.
            translator = await asyncio.to_thread(parse, raw)
        else:
            translator = parse(raw)
        exchange.record.model = translator.model
        exchange.record.is_stream = translator.is_stream
        return translator

    async def respond_json(self, exchange: Exchange, value: Any) -> None:
        """Answer 200 with a value, and where the caller's limits stand."""
        if exchange.principal is not None:
            exchange.decided(await self._admission.inspect(exchange.principal))
        await exchange.respond(200, _encode(value))


def _head_of(handles: Mapping[str, Handle]) -> set[str]:
    return {"HEAD"} if "GET" in handles else set()


def _chosen(method: str, handles: Mapping[str, Handle], allowed: str) -> Handle:
    handle = handles.get(method)
    if handle is not None:
        return handle

    async def refuse(exchange: Exchange) -> None:
        if method != "OPTIONS":
            raise MethodNotAllowed(method, allowed)
        await exchange.start(204, ((b"allow", allowed.encode("ascii")),))
        await exchange.write(b"", more=False)

    return refuse


def internal_error(exchange: Exchange, cause: Exception) -> InternalError:
    """A fault of ours: the log gets the cause, the client an id to quote."""
    error_id = uuid.uuid4().hex[:12]
    exchange.record.error_id = error_id
    facts = {"error_id": error_id, "request_id": exchange.request_id}
    logger.error("internal error", exc_info=cause, extra={"facts": facts})
    return InternalError(error_id)


def trace_headers(exchange: Exchange) -> tuple[Header, ...]:
    """The caller's trace context, for the upstream."""
    headers = exchange.headers
    if TRACE_HEADERS.isdisjoint(headers):
        return ()
    # Forwarded as they came: tracing decides what to make of them, not this proxy.
    return tuple((name, headers[name]) for name in TRACE_HEADERS if name in headers)
