"""`/v1/models`, one model, and a model's own inference: ids with slashes, raw or escaped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from litestar.handlers import ASGIRouteHandler, asgi

from gateway.asgi import Receive, Scope, Send
from gateway.errors import MethodNotAllowed, ModelNotFound
from gateway.exchange import Exchange, exchange_of
from gateway.model_catalog import ModelCatalog
from gateway.routes.door import Door

Infer: TypeAlias = Callable[[Exchange, str], Awaitable[None]]

INFERENCE: Final = "/inference"
PREFIXES: Final = ("/v1/models/", "/models/")


class ModelRoutes:
    """Lists models, retrieves one, and hands a model's inference on."""

    def __init__(self, *, door: Door, catalog: ModelCatalog, infer: Infer) -> None:
        self._door = door
        self._catalog = catalog
        self._infer = infer

    def handlers(self) -> list[ASGIRouteHandler]:
        return [
            self._door.route("/v1/models", "/models", GET=self.list),
            # One handler for all below: the id's slashes leave no room for a router.
            asgi(["/v1/models/{rest:path}", "/models/{rest:path}"], copy_scope=False)(
                self.below
            ),
        ]

    async def list(self, exchange: Exchange) -> None:
        principal = self._door.authenticate(exchange)
        models = await self._catalog.visible_to(principal)
        await self._door.respond_json(exchange, {"object": "list", "data": models})

    async def below(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange, method = exchange_of(scope), scope["method"]
        path = _below_prefix(scope["path"])
        is_inference = path.endswith(INFERENCE) and method != "GET"
        exchange.record.route = f"/v1/models/{{id}}{INFERENCE if is_inference else ''}"

        async def handle(exchange: Exchange) -> None:
            if method == "POST" and is_inference:
                await self._infer(exchange, path.removesuffix(INFERENCE))
            elif method == "GET":
                await self._retrieve(exchange, path)
            elif method == "OPTIONS":
                await exchange.start(204, ((b"allow", b"GET, HEAD, OPTIONS, POST"),))
                await exchange.write(b"", more=False)
            else:
                raise MethodNotAllowed(method, "POST" if is_inference else "GET, HEAD")

        await self._door.answer(exchange, handle)

    async def _retrieve(self, exchange: Exchange, model_id: str) -> None:
        principal = self._door.authenticate(exchange)
        model = await self._catalog.find(principal, model_id)
        if model is None:
            raise ModelNotFound(model_id)
        await self._door.respond_json(exchange, model)


def _below_prefix(path: str) -> str:
    for prefix in PREFIXES:
        if path.startswith(prefix):
            return path.removeprefix(prefix).rstrip("/")
    return path
