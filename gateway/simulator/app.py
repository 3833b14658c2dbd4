"""
The simulated LLMTune as an ASGI application.

One request's way: route, key, body, fault, model, Idempotency-Key, answer, pace.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.simulator.batches import Batches
from gateway.simulator.catalog import Catalog
from gateway.simulator.chat import ChatModel
from gateway.simulator.delivery import Delivery, refusal
from gateway.simulator.errors import SimulatorError, error_reply, unauthorized
from gateway.simulator.exchange import (
    BodyTooLarge,
    ClientLeft,
    Exchange,
    Receive,
    Scope,
    Send,
)
from gateway.simulator.faults import (
    FAULT_MODELS,
    FAULTS_AFTER_PROCESSING,
    FaultDraw,
    FaultKind,
)
from gateway.simulator.finetunes import FineTunes
from gateway.simulator.idempotency import IdempotencyStore
from gateway.simulator.inference import InferenceModel
from gateway.simulator.jobs import JobTasks
from gateway.simulator.listings import Listings
from gateway.simulator.replies import AnyReply
from gateway.simulator.requests import (
    BatchRequest,
    ChatRequest,
    FineTuneRequest,
    InferenceRequest,
)
from gateway.simulator.routes import (
    ReadRoute,
    Route,
    Router,
    Table,
    Work,
    WriteRoute,
    no_route,
    wrong_method,
)
from gateway.simulator.settings import SimulatorSettings
from gateway.simulator.stats import StatsBoard
from gateway.simulator.webhooks import WebhookSender


class Simulator:
    """One simulated LLMTune; `board` is its programmatic `GET /simulator/stats`."""

    def __init__(
        self, settings: SimulatorSettings, now: Callable[[], float] = time.time
    ) -> None:
        self.settings = settings
        self.board = StatsBoard()
        self._delivery = Delivery(settings)
        self._faults = FaultDraw(settings.faults, settings.seed)
        self._kept = IdempotencyStore(self.board)
        self._catalog = Catalog(settings.models)
        self._webhooks = WebhookSender(settings, self.board, now)
        self._tasks = JobTasks()
        self._keys = frozenset(settings.api_keys)
        self._router = self._routes(now)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Servers take this as "no lifespan, no websockets here".
            raise NotImplementedError(scope["type"])
        found = self._router.find(scope["path"])
        self.board.opened("_other" if found is None else found[0].name)
        exchange = Exchange(scope, receive, send)
        try:
            await self._serve(exchange, found)
        except ClientLeft:
            # Nobody is there to be answered; the server has counted the disconnect.
            pass
        finally:
            exchange.close()
            self.board.closed()

    async def aclose(self) -> None:
        """End what goes on in the background: jobs, batches and deliveries."""
        await self._tasks.aclose()
        await self._webhooks.aclose()

    async def _serve(self, exchange: Exchange, found: tuple[Route, str] | None) -> None:
        try:
            if found is None:
                raise no_route(exchange.scope["path"])
            reply, fault = await self._answer(exchange, *found)
        except SimulatorError as error:
            reply, fault = error_reply(error, self.settings.error_shape), None
        await self._delivery.give(exchange, reply, fault)

    async def _answer(
        self, exchange: Exchange, route: Route, parameter: str
    ) -> tuple[AnyReply, FaultKind | None]:
        if exchange.scope["method"] != route.method:
            raise wrong_method(route)
        caller = "" if route.is_open else self._caller(exchange)
        if route.method == "GET":
            return route.read(b"", parameter).perform(), None

        body = await self._body(exchange)
        work = route.read(body, parameter)
        fault = self._fault(work)
        if fault is not None and fault not in FAULTS_AFTER_PROCESSING:
            await self._instead(exchange, fault)
        if work.model is not None:
            self._catalog.require(work.model)
        key = exchange.header(b"idempotency-key")
        if not key:
            return work.perform(), fault
        scope = (caller, exchange.scope["path"], key)
        return self._kept.once(scope, body, work.perform), fault

    def _caller(self, exchange: Exchange) -> str:
        """The key, with or without `Bearer`, as LLMTune takes both."""
        given = (exchange.header(b"authorization") or "").strip()
        if given[:7].lower() == "bearer " or given.lower() == "bearer":
            given = given[7:].strip()
        if not given:
            raise unauthorized("An API key is required.")
        # Not in constant time: these keys protect nothing.
        if self._keys and given not in self._keys:
            raise unauthorized("The API key is not valid.")
        return given

    async def _body(self, exchange: Exchange) -> bytes:
        try:
            return await exchange.read_body(self.settings.max_body_bytes)
        except BodyTooLarge as error:
            message = f"The body exceeds {self.settings.max_body_bytes} bytes."
            raise SimulatorError(413, "PAYLOAD_TOO_LARGE", message) from error

    def _fault(self, work: Work) -> FaultKind | None:
        fault = FAULT_MODELS.get(work.model or "") or self._faults.next()
        if fault is not None:
            self.board.faulted(fault.value)
        return fault

    async def _instead(self, exchange: Exchange, fault: FaultKind) -> None:
        """Give a fault that takes the place of any answer."""
        error = refusal(fault, self.settings)
        if error is not None:
            raise error
        if fault is FaultKind.REFUSE:
            await self._delivery.refuse(exchange)
        await self._delivery.stall(exchange)

    def _routes(self, now: Callable[[], float]) -> Router:
        settings, webhooks, tasks = self.settings, self._webhooks, self._tasks
        model = InferenceModel(settings, self.board, now)
        chat = ChatModel(settings, self.board, now)
        batches = Batches(settings, model, webhooks, tasks)
        tunes = FineTunes(settings, self._catalog, webhooks, tasks, now)
        exact: Table = {
            "/v1/playground/inference": inference_route(
                "/v1/playground/inference", model
            ),
            "/v1/chat/completions": chat_route("/v1/chat/completions", chat),
            "/api/agent/v1/chat/completions": chat_route(
                "/api/agent/v1/chat/completions", chat
            ),
            "/v1/batch/inference": WriteRoute(
                "/v1/batch/inference",
                BatchRequest,
                model=lambda request: request.model_id,
                check=batches.check,
                answer=lambda _, request: batches.create(request),
            ),
            "/v1/fine-tune": WriteRoute(
                "/v1/fine-tune",
                FineTuneRequest,
                model=lambda request: request.base_model,
                check=tunes.check,
                answer=lambda _, request: tunes.create(request),
            ),
        }
        for path, listing in Listings(self._catalog, self.board).by_path().items():
            exact[path] = ReadRoute(path, listing.answer, is_open=listing.is_open)
        return Router(
            exact,
            inference_route("/v1/models/{modelId}/inference", model),
            ReadRoute("/v1/fine-tune/{jobId}", tunes.show),
        )


def inference_route(name: str, model: InferenceModel) -> Route:
    return WriteRoute(
        name,
        InferenceRequest,
        model=lambda request: request.model_id or request.model,
        check=model.check,
        answer=model.infer,
    )


def chat_route(name: str, chat: ChatModel) -> Route:
    return WriteRoute(
        name,
        ChatRequest,
        model=lambda request: request.model,
        answer=lambda _, request: chat.complete(request),
    )


def create_simulator(settings: SimulatorSettings | None = None) -> Simulator:
    return Simulator(settings or SimulatorSettings())
