"""
LLMTune's own inference routes, passed through: bytes unchanged, usage read on the way.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.errors import InvalidRequest, UpstreamError
from gateway.schemas.llmtune import NativeRequest
from gateway.translation.answer import decode_answer, read_choices, usage_of
from gateway.translation.body import decode_body
from gateway.translation.events import DONE, read_event
from gateway.translation.port import (
    Route,
    Stamp,
    TokenDemand,
    UpstreamRequest,
    WholeAnswer,
)
from gateway.translation.routes import PLAYGROUND_PATH, check_model_id, inference_path
from gateway.translation.usage import TextMeter, TokenUsage, reported_usage
from policies.estimate import estimate_text_tokens

_decoder: Final = msgspec.json.Decoder(NativeRequest)
_encode: Final = msgspec.json.Encoder().encode


class NativeTranslator:
    """Implements `Translator` for calls that are LLMTune's already."""

    def __init__(self, raw: bytes, *, model: str | None) -> None:
        """`model` is the path's; None is the playground, whose body names it."""
        request = decode_body(raw, _decoder)
        self._route: Route = "playground" if model is None else "inference"
        named = request.model_id if model is None else model
        if not named:
            raise InvalidRequest(
                "Missing required parameter: 'modelId'.", param="modelId"
            )
        check_model_id(named, "modelId")
        if not request.prompt and not request.messages:
            raise InvalidRequest(
                "Missing required parameter: 'prompt'.", param="prompt"
            )
        limit = request.max_tokens_camel
        if limit is None:
            limit = request.max_tokens
        if limit is not None and not 1 <= limit < 2**31:
            raise InvalidRequest("'maxTokens' must be at least 1.", param="maxTokens")
        self._raw = raw
        self._model = named
        self._is_stream = bool(request.stream)
        said = request.prompt or ""
        if request.messages:
            said += _encode(request.messages).decode()
        self._demand = TokenDemand(estimate_text_tokens(said), limit)

    @property
    def model(self) -> str:
        return self._model

    @property
    def is_stream(self) -> bool:
        return self._is_stream

    @property
    def demand(self) -> TokenDemand:
        return self._demand

    def to_upstream(self) -> UpstreamRequest:
        is_named = self._route == "inference"
        path = inference_path(self._model) if is_named else PLAYGROUND_PATH
        return UpstreamRequest(self._route, path, self._raw, self._is_stream)

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer:
        answer = decode_answer(body)
        usage = usage_of(answer, read_choices(answer), self._demand.input_tokens)
        return WholeAnswer(body, usage)

    def stream(self, stamp: Stamp) -> NativeStream:
        return NativeStream(self)


class NativeStream:
    """Relays events as they came and reads along for the meter."""

    def __init__(self, translator: NativeTranslator) -> None:
        self._translator = translator
        self._meter = TextMeter()
        self._reported: TokenUsage | None = None
        self._is_finished = False

    @property
    def usage(self) -> TokenUsage:
        if self._reported is not None:
            return self._reported
        tokens_in = self._translator.demand.input_tokens
        return TokenUsage(tokens_in, self._meter.tokens, is_reported=False)

    def feed(self, data: bytes) -> bytes:
        event = read_event(data)
        for piece in event.pieces:
            self._meter.add(piece.text)
            self._is_finished |= piece.finish_reason is not None
        if event.reported is not None:
            tokens_in = self._translator.demand.input_tokens
            usage = reported_usage(event.reported, tokens_in, self._meter.tokens)
            self._reported = usage or self._reported
        # A data field cannot hold a line break: an event of several lines is several.
        return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"

    def feed_whole(self, body: bytes) -> bytes:
        self._reported = self._translator.from_upstream(body, Stamp("", 0)).usage
        self._is_finished = True
        # JSON may be laid out with any of the three line ends that SSE knows.
        return b"data: " + b"\ndata: ".join(body.strip().splitlines()) + b"\n\n"

    def finish(self, *, is_marked: bool) -> bytes:
        if not is_marked and not self._is_finished:
            raise UpstreamError(
                "The upstream ended its stream before the answer's end."
            )
        return b"data: " + DONE + b"\n\n"
