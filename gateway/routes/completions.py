"""The routes that cost something: decode, complete, answer whole or streamed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from gateway.auth import Principal
from gateway.completion import Call, CompletionService
from gateway.errors import ShuttingDown
from gateway.exchange import JSON_TYPE, Exchange
from gateway.ids import new_id
from gateway.presence import Attendance, Presence
from gateway.replay.asking import may_have_terms
from gateway.replay.delivery import end_in
from gateway.replay.header import IDEMPOTENCY_KEY
from gateway.replay.once import Once
from gateway.replay.replays import Replays
from gateway.routes.door import Door, Route
from gateway.settings import Settings
from gateway.streaming import EventStreamResponse, MeteredStream
from gateway.telemetry.metrics import Telemetry
from gateway.translation.chat import ChatTranslator
from gateway.translation.native import NativeTranslator
from gateway.translation.port import Parse, Stamp
from gateway.translation.text import TextTranslator

CHAT_ID: Final = "chatcmpl-"
TEXT_ID: Final = "cmpl-"


# Hears of a job that was created: for whom, on which model, and what it is.
Created: TypeAlias = Callable[[Principal, str, bytes], Awaitable[None]]


class _Way(NamedTuple):
    """What differs from route to route."""

    parse: Parse
    prefix: str
    # The caller's, if the upstream is to see it.
    upstream_key: bytes | None = None
    created: Created | None = None


class CompletionRoutes:
    """Chat, text, and LLMTune's own inference: four routes, one way through."""

    def __init__(
        self,
        settings: Settings,
        *,
        door: Door,
        service: CompletionService,
        attendance: Attendance,
        replays: Replays,
        telemetry: Telemetry,
        now_s: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._door = door
        self._service = service
        self._attendance = attendance
        self._replays = replays
        self._telemetry = telemetry
        self._now_s = now_s

    def routes(self) -> list[Route]:
        """
        The routes with a path of their own; a model's inference is `models`' business.
        """
        dialect = self._settings.upstream_dialect
        form = self._settings.upstream_prompt_form
        chat = partial(ChatTranslator, dialect=dialect, prompt_form=form)
        text = partial(TextTranslator, dialect=dialect, prompt_form=form)
        return [
            # Without /v1 too: a base_url that lacks it is the commonest of all
            # mistakes.
            self._door.route(
                "/v1/chat/completions",
                "/chat/completions",
                POST=partial(self.complete, parse=chat, prefix=CHAT_ID),
            ),
            self._door.route(
                "/v1/completions",
                "/completions",
                POST=partial(self.complete, parse=text, prefix=TEXT_ID),
            ),
            self._door.route("/v1/playground/inference", POST=self.infer),
        ]

    async def infer(self, exchange: Exchange, model: str | None = None) -> None:
        """LLMTune's own inference; without a model, the playground's."""
        await self.complete(exchange, partial(NativeTranslator, model=model), "")

    async def create_job(
        self, exchange: Exchange, parse: Parse, created: Created | None = None
    ) -> None:
        """
        One of LLMTune's own jobs, which LLMTune creates once for a key as well.

        `created` hears of it before the caller does.
        """
        await self.complete(exchange, parse, "", is_job=True, created=created)

    async def complete(
        self,
        exchange: Exchange,
        parse: Parse,
        prefix: str,
        *,
        is_job: bool = False,
        created: Created | None = None,
    ) -> None:
        """Authenticate, parse, complete, answer; some of them once for all who ask."""
        key = exchange.headers.get(IDEMPOTENCY_KEY) if is_job else None
        way = _Way(parse, prefix, key, created)
        principal = await self._door.authenticate(exchange)
        if not may_have_terms(exchange.headers, principal.plan):
            await self._complete(exchange, principal, way)
            return
        async with self._replays.once(exchange, principal, parse) as once:
            await self._complete(
                exchange, principal, way._replace(parse=once.parse), once
            )

    async def _complete(
        self,
        exchange: Exchange,
        principal: Principal,
        way: _Way,
        once: Once | None = None,
    ) -> None:
        response: EventStreamResponse | None = None
        try:
            with Presence(exchange.wire, self._attendance) as presence:
                translator = await self._door.parse(exchange, principal, way.parse)
                presence.listen()
                if once is not None and await once.answered(translator, presence):
                    return
                call = Call(
                    principal=principal,
                    translator=translator,
                    stamp=Stamp(way.prefix + new_id(), int(self._now_s())),
                    trace_headers=self._door.mesh.carried(exchange),
                    exchange=exchange,
                    lease_id=None if once is None else once.lease_id,
                    idempotency_key=way.upstream_key,
                )
                reply = await self._service.complete(call)
                model = translator.model
                # A stream takes minutes, and its prompt may be megabytes.
                del call, translator
                if isinstance(reply, MeteredStream):
                    response = self._streamed(reply, exchange, presence)
                    self._telemetry.streams_in_flight += 1
                    try:
                        await response.send()
                    finally:
                        self._telemetry.streams_in_flight -= 1
                    return
                if way.created is not None:
                    await way.created(principal, model, reply)
        except ShuttingDown as error:
            # Connection and lease are back already: Presence raises after its block.
            if response is not None:
                await response.fail(error)
            elif exchange.is_started:
                # Somebody else's stream, which was followed.
                exchange.note(error)
                end_in(exchange.wire, error)
            else:
                raise
            return
        # OpenAI's own header, which dashboards of applications already read.
        elapsed = b"%d" % (exchange.elapsed_s * 1000)
        await exchange.respond(
            200, reply, (JSON_TYPE, (b"openai-processing-ms", elapsed))
        )

    def _streamed(
        self, stream: MeteredStream, exchange: Exchange, presence: Presence
    ) -> EventStreamResponse:
        return EventStreamResponse(
            stream,
            exchange,
            presence,
            ping_interval_s=self._settings.stream_ping_interval_s,
            telemetry=self._telemetry,
        )
