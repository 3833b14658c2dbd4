"""
What every route shares: methods, authentication, the body, and how errors leave.

Routes are bare ASGI handlers in Litestar's router: its `@post` handlers parse, inject
and serialise what this gateway does itself, at twice the cost of the whole request.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from gateway.admission import Admission
from gateway.asgi import ASGIApp, Receive, Scope, Send
from gateway.auth import Authenticator, Principal
from gateway.cors import Cors
from gateway.errors import (
    ClientGone,
    GatewayError,
    InternalError,
    InvalidApiKey,
    LimitExceeded,
    MethodNotAllowed,
    OriginRefused,
    RouteNotFound,
)
from gateway.exchange import Exchange, exchange_of
from gateway.mesh import MeshHeaders
from gateway.middleware import Begin
from gateway.settings import Settings
from gateway.translation.port import Parse, Translator
from gateway.trusted_peers import TrustedPeers

logger = logging.getLogger(__name__)

Handle: TypeAlias = Callable[[Exchange], Awaitable[None]]
# What is at a path below another, as its label and its methods; None: nothing.
Find: TypeAlias = Callable[[list[str]], tuple[str, Mapping[str, Handle]] | None]

# The slowest body of this size takes about 3 ms, and a thread's hand-over 50 us.
PARSED_BESIDE_BYTES: Final = 128 * 1024

_encode: Final = msgspec.json.Encoder().encode


class Route(NamedTuple):
    """What Litestar's router hands on to an application, and what needs no router."""

    paths: tuple[str, ...]
    app: ASGIApp
    # Whether all below the paths is the application's, too.
    is_mount: bool = False
    # What the router would find only after a walk.
    exact: Mapping[str, Begin] = MappingProxyType({})


class Door:
    """Lets requests in, and errors out."""

    def __init__(
        self, settings: Settings, *, authenticator: Authenticator, admission: Admission
    ) -> None:
        self._settings = settings
        self._authenticator = authenticator
        self._admission = admission
        self._keyless_cors = (
            None if settings.sidecar_workspace is None else Cors(settings.cors_origins)
        )
        self.mesh = MeshHeaders(TrustedPeers(settings.trusted_proxies))

    def route(self, *paths: str, **handles: Handle) -> Route:
        """
        A handler for these paths with one function a method: `route("/x", GET=f)`.
        """
        allowed = ", ".join(sorted({*handles, "OPTIONS"} | _head_of(handles)))

        def begin(exchange: Exchange, method: str) -> Awaitable[None]:
            # The coroutine of `answer` and none around it: 1 us a request.
            exchange.record.route = paths[0]
            return self.answer(exchange, _chosen(method, handles, allowed))

        # What the router is asked to find is refused there, or differs by a slash.
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            await begin(exchange_of(scope), scope["method"])

        return Route(paths, handle, exact=dict.fromkeys(paths, begin))

    def tree(self, *paths: str, find: Find) -> Route:
        """
        Handlers for these paths and what is below them; `find` chooses by the segments.
        """
        prefix = paths[0]

        def begin(exchange: Exchange, method: str, below: str) -> Awaitable[None]:
            found = find([part for part in below.split("/") if part])
            if found is None:
                exchange.record.route = "_other"
                return self.answer(exchange, _nothing_there)
            label, handles = found
            exchange.record.route = prefix + label
            allowed = ", ".join(sorted({*handles, "OPTIONS"} | _head_of(handles)))
            return self.answer(exchange, _chosen(method, handles, allowed))

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            # Litestar leaves only the part of the path that is below.
            await begin(exchange_of(scope), scope["method"], scope["path"])

        return Route(paths, handle, is_mount=True)

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
        if self._keyless_cors is not None:
            _refuse_page(exchange, self._keyless_cors)
        authorization = exchange.headers.get(b"authorization")
        try:
            principal = self._authenticator.recognise(authorization)
            if principal is None:
                principal = await self._authenticator.authenticate(authorization)
        except InvalidApiKey as error:
            exchange.record.key_id = error.key_id
            raise
        exchange.principal = principal
        record = exchange.record
        record.peer_identity = self.mesh.identity(exchange)
        record.workspace, record.key_id = principal.workspace, principal.key_id
        record.plan = principal.plan.plan
        return principal

    async def read(self, exchange: Exchange, max_bytes: int | None = None) -> bytes:
        """The body, within the gateway's bound and this one."""
        most = self._settings.http_max_body_bytes
        if max_bytes is not None and max_bytes < most:
            most = max_bytes
        raw = exchange.take_body(most)
        if raw is not None:
            return raw
        return await exchange.read_body(most, self._settings.http_body_timeout_s)

    def stream(self, exchange: Exchange, max_bytes: int) -> AsyncIterator[bytes]:
        """The body as it comes, for what is too large to be held."""
        return exchange.stream_body(max_bytes, self._settings.http_body_timeout_s)

    async def parse(
        self, exchange: Exchange, principal: Principal, parse: Parse
    ) -> Translator:
        """The body, within the gateway's bound and the plan's, as the request it is."""
        raw = await self.read(exchange, principal.plan.request.max_body_bytes)
        if len(raw) > PARSED_BESIDE_BYTES:
            # A body made to be slow takes a second and more for 32 MiB; the others'
            # streams go on meanwhile.
            translator = await asyncio.to_thread(parse, raw)
        else:
            translator = parse(raw)
        if exchange.trace is not None:
            exchange.trace.asked(raw)
        exchange.record.model = translator.model
        exchange.record.is_stream = translator.is_stream
        return translator

    async def respond_json(self, exchange: Exchange, value: Any) -> None:
        """Answer 200 with a value, and where the caller's limits stand."""
        await self.show_limits(exchange)
        await exchange.respond(200, _encode(value))

    async def show_limits(self, exchange: Exchange) -> None:
        """Have the answer say where the limits of its caller stand, if it has one."""
        if exchange.principal is not None:
            exchange.decided(await self._admission.inspect(exchange.principal))


def _refuse_page(exchange: Exchange, cors: Cors) -> None:
    """
    Any web page can have its reader's browser ask loopback; it needs no answer to harm.

    Browsers name the page in every such POST; applications have no origin.
    """
    origin = exchange.headers.get(b"origin")
    if origin is not None and not cors.allows(origin):
        raise OriginRefused(
            "This gateway takes calls without a key, and so none from web pages but"
            " those of GATEWAY_CORS_ORIGINS."
        )


def _head_of(handles: Mapping[str, Handle]) -> set[str]:
    return {"HEAD"} if "GET" in handles else set()


async def _nothing_there(exchange: Exchange) -> None:
    raise RouteNotFound("There is no such route.")


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
    if exchange.trace is not None:
        exchange.trace.crashed(cause)
    if exchange.record.trace_id is not None:
        facts["trace_id"] = exchange.record.trace_id
        facts["span_id"] = exchange.record.span_id or ""
    logger.error("internal error", exc_info=cause, extra={"facts": facts})
    return InternalError(error_id)
