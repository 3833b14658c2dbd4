"""`/v1/chat/completions`: one parsed request and the translations that belong to it."""

from __future__ import annotations

from gateway.schemas.openai import ChatRequest
from gateway.settings import Dialect, PromptForm
from gateway.translation.answer import to_chat_completion
from gateway.translation.chat_request import (
    demand_of,
    is_rewritten,
    parse_chat_request,
    to_chat,
    to_inference,
)
from gateway.translation.chat_stream import ChatStream
from gateway.translation.port import (
    Route,
    Stamp,
    TokenDemand,
    UpstreamRequest,
    WholeAnswer,
)
from gateway.translation.routes import choose_route, first_uncarried


class ChatTranslator:
    """Implements `Translator` for chat completions."""

    __slots__ = (
        "_dialect",
        "_prompt_form",
        "_raw",
        "_request",
        "_route",
        "_upstream",
        "demand",
        "is_stream",
        "model",
    )

    def __init__(
        self, raw: bytes, *, dialect: Dialect, prompt_form: PromptForm
    ) -> None:
        self._raw = raw
        self._request: ChatRequest = parse_chat_request(raw)
        self._dialect = dialect
        self._prompt_form = prompt_form
        self.model: str = self._request.model
        self.is_stream = bool(self._request.stream)
        self.demand: TokenDemand = demand_of(self._request)
        self._route: Route | None = None
        self._upstream: UpstreamRequest | None = None

    def find_route(self) -> Route:
        if self._route is None:
            uncarried = first_uncarried(self._request)
            self._route = choose_route(self._dialect, uncarried)
            if self._route == "chat" and is_rewritten(self._request):
                # Writing it anew may find what cannot be passed on.
                self._upstream = to_chat(self._request, self._raw)
        return self._route

    def to_upstream(self) -> UpstreamRequest:
        if self.find_route() == "inference":
            return to_inference(self._request, self._prompt_form)
        return self._upstream or to_chat(self._request, self._raw)

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer:
        return to_chat_completion(
            body,
            stamp,
            model=self.model,
            input_estimate=self.demand.text_tokens,
            max_tokens=self.demand.max_output_tokens,
            speaks_functions=bool(self._request.functions),
        )

    def stream(self, stamp: Stamp) -> ChatStream:
        options = self._request.stream_options
        return ChatStream(
            stamp,
            model=self.model,
            demand=self.demand,
            wants_usage=bool(options and options.include_usage),
            speaks_functions=bool(self._request.functions),
        )
