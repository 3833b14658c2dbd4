"""
Litestar's router, for the paths that have to be found rather than looked up.

Whole paths are answered without it, so it is made beside the first requests: importing
Litestar is a third of a start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from gateway.asgi import ASGIApp, Receive, Scope, Send
from gateway.errors import (
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    envelope,
    retry_headers,
)
from gateway.exchange import exchange_of
from gateway.routes.door import Route, internal_error

if TYPE_CHECKING:
    from litestar import Request, Response


class LateRouter:
    """An application that is put together when it is first needed, or before."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes = routes
        self._app: ASGIApp | None = None
        self._making: asyncio.Future[ASGIApp] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app or await self.made()
        await app(scope, receive, send)

    async def made(self) -> ASGIApp:
        """The router, made in a thread: what is asked meanwhile is answered."""
        if self._making is None:
            made = asyncio.to_thread(litestar_router, self._routes)
            self._making = asyncio.ensure_future(made)
        making = self._making
        try:
            # One asker that leaves must not take it from the others.
            self._app = await asyncio.shield(making)
        finally:
            if making.done():
                # What failed, for want of a descriptor, is tried again.
                self._making = None
        return self._app


def litestar_router(routes: Sequence[Route]) -> ASGIApp:
    """
    Litestar with these routes.

    Only what it refuses reaches the exception handler; our handlers end in
    `Door.answer`.
    """
    from litestar import Litestar  # noqa: PLC0415 - a third of a start
    from litestar.handlers import asgi  # noqa: PLC0415 - as above

    handlers = [
        asgi(list(route.paths), is_mount=route.is_mount, copy_scope=False)(route.app)
        for route in routes
    ]
    router = Litestar(
        route_handlers=handlers,
        exception_handlers={Exception: to_envelope},
        openapi_config=None,
        logging_config=None,
    )
    # Litestar types ASGI's dicts more narrowly.
    return cast(ASGIApp, router)


def to_envelope(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """What the router refuses, and bugs outside of our handlers, as envelopes."""
    from litestar import Response  # noqa: PLC0415 - as above

    exchange = exchange_of(request.scope)
    shown = _shown(request, error)
    if shown is None:
        shown = internal_error(exchange, error)
    exchange.note(shown)
    exchange.record.status = shown.http_status
    headers = (*shown.headers, *retry_headers(shown), *exchange.common_headers)
    return Response(
        envelope(shown),
        status_code=shown.http_status,
        media_type="application/json",
        headers={name.decode(): value.decode("latin-1") for name, value in headers},
    )


def _shown(request: Request[Any, Any, Any], error: Exception) -> GatewayError | None:
    from litestar.exceptions import HTTPException  # noqa: PLC0415 - as above

    if not isinstance(error, HTTPException):
        return None
    path = request.scope["path"][:128]
    match error.status_code:
        case 404:
            return RouteNotFound(f"There is no route {path}; the API is below /v1.")
        case 405:
            allowed = (error.headers or {}).get("allow", "")
            return MethodNotAllowed(request.method, allowed)
        case _:
            return InvalidRequest(error.detail or "The request is not valid.")
