"""
`/v1/models`, one model, and a model's own inference: ids with slashes, raw or escaped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

from gateway.asgi import Receive, Scope, Send
from gateway.errors import MethodNotAllowed, ModelNotFound, RouteNotFound
from gateway.exchange import Exchange, exchange_of
from gateway.model_catalog import ModelCatalog
from gateway.presence import Attendance, Presence
from gateway.routes.door import Door, Route

T = TypeVar("T")
Infer: TypeAlias = Callable[[Exchange, str], Awaitable[None]]

INFERENCE: Final = "/inference"


class ModelRoutes:
    """Lists models, retrieves one, and hands a model's inference on."""

    def __init__(
        self,
        *,
        door: Door,
        catalog: ModelCatalog,
        attendance: Attendance,
        infer: Infer,
    ) -> None:
        self._door = door
        self._attendance = attendance
        self._catalog = catalog
        self._infer = infer

    def routes(self) -> list[Route]:
        # A mount, because an id's slashes leave the router nothing to match, and
        # because Litestar resolves path parameters for its HTTP handlers only.
        return [Route(("/v1/models", "/models"), self.handle, is_mount=True)]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The list, or what is below it: Litestar leaves only that part of the path."""
        exchange, method = exchange_of(scope), scope["method"]
        below = scope["path"]
        model_id = below.strip("/")
        # HEAD comes as GET; a GET of ".../inference" is of a model whose id ends so.
        is_inference = model_id.endswith(INFERENCE) and method != "GET"
        exchange.record.route = _route_of(model_id, is_inference=is_inference)

        async def handle(exchange: Exchange) -> None:
            if not below.startswith("/"):
                raise RouteNotFound("There is no such route.")
            allowed = "OPTIONS, POST" if is_inference else "GET, HEAD, OPTIONS"
            if method == "OPTIONS":
                await exchange.start(204, ((b"allow", allowed.encode("ascii")),))
                await exchange.write(b"", more=False)
            elif method == "POST" and is_inference:
                await self._infer(exchange, model_id.removesuffix(INFERENCE))
            elif method != "GET":
                raise MethodNotAllowed(method, allowed)
            elif model_id:
                await self._retrieve(exchange, model_id)
            else:
                await self.list(exchange)

        await self._door.answer(exchange, handle)

    async def list(self, exchange: Exchange) -> None:
        principal = await self._door.authenticate(exchange)
        models = await self._ask(exchange, self._catalog.visible_to, principal)
        await self._door.respond_json(exchange, {"object": "list", "data": models})

    async def _ask(
        self, exchange: Exchange, ask: Callable[..., Awaitable[T]], *args: Any
    ) -> T:
        """Wait for the catalog, as long as the client does."""
        with Presence(exchange.wire, self._attendance) as presence:
            presence.listen()
            return await ask(*args)

    async def _retrieve(self, exchange: Exchange, model_id: str) -> None:
        principal = await self._door.authenticate(exchange)
        model = await self._ask(exchange, self._catalog.find, principal, model_id)
        if model is None:
            raise ModelNotFound(model_id)
        await self._door.respond_json(exchange, model)


def _route_of(model_id: str, *, is_inference: bool) -> str:
    if not model_id:
        return "/v1/models"
    return f"/v1/models/{{id}}{INFERENCE if is_inference else ''}"
