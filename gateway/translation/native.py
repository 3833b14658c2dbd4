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
from gateway.translation.events import (
    DONE,
    Event,
    decode_event,
    plain_text_of,
    read_event,
)
from gateway.translation.port import (
    Route,
    Stamp,
    TokenDemand,
    UpstreamRequest,
    WholeAnswer,
)
from gateway.translation.routes import PLAYGROUND_PATH, check_model_id, inference_path
from gateway.translation.usage import StreamMeter, TokenUsage
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
        # Both spellings go upstream and nobody knows which it reads: each must be a
        # limit, and the larger is what may come.
        spelled = [request.max_tokens_camel, request.max_tokens]
        limits = [limit for limit in spelled if limit is not None]
        if not all(1 <= limit < 2**31 for limit in limits):
            raise InvalidRequest("'maxTokens' must be at least 1.", param="maxTokens")
        self._raw = raw
        self._model = named
        self._is_stream = bool(request.stream)
        said = request.prompt or ""
        if request.messages:
            said += _encode(request.messages).decode()
        tokens = estimate_text_tokens(said)
        self._demand = TokenDemand(
            input_tokens=tokens,
            text_tokens=tokens,
            max_output_tokens=max(limits, default=None),
            input_param="prompt",
            output_param="maxTokens",
        )

    @property
    def model(self) -> str:
        return self._model

    @property
    def is_stream(self) -> bool:
        return self._is_stream

    @property
    def demand(self) -> TokenDemand:
        return self._demand

    def find_route(self) -> Route:
        return self._route

    def to_upstream(self) -> UpstreamRequest:
        is_named = self._route == "inference"
        path = inference_path(self._model) if is_named else PLAYGROUND_PATH
        return UpstreamRequest(self._route, path, self._raw, self._is_stream)

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer:
        return WholeAnswer(body, _usage_of(body, self._demand))

    def stream(self, stamp: Stamp) -> NativeStream:
        return NativeStream(self._demand)


class NativeStream:
    """Relays events as they came and reads along for the meter."""

    def __init__(self, demand: TokenDemand) -> None:
        # And not the translator, which has the prompt.
        self._demand = demand
        self._meter = StreamMeter(demand.text_tokens, demand.most_output_tokens)
        self._is_finished = False

    @property
    def usage(self) -> TokenUsage:
        return self._meter.usage

    def feed(self, data: bytes) -> bytes:
        said = decode_event(data)
        text = plain_text_of(said)
        if text is not None:
            self._meter.add(text)
        else:
            self._note(read_event(said))
        # A data field cannot hold a line break: an event of several lines is several.
        return b"data: " + data.replace(b"\n", b"\ndata: ") + b"\n\n"

    def _note(self, event: Event) -> None:
        for piece in event.pieces:
            self._meter.add(piece.text)
            self._is_finished |= piece.finish_reason is not None
        # The last report wins: earlier ones count a part.
        self._meter.note(event.reported)

    def feed_whole(self, body: bytes) -> bytes:
        self._meter.settle(_usage_of(body, self._demand))
        self._is_finished = True
        # JSON may be laid out with any of the three line ends that SSE knows.
        return b"data: " + b"\ndata: ".join(body.strip().splitlines()) + b"\n\n"

    def finish(self, *, is_marked: bool) -> bytes:
        if not is_marked and not self._is_finished:
            raise UpstreamError(
                "The upstream ended its stream before the answer's end.",
                fault="cut_short",
            )
        return b"data: " + DONE + b"\n\n"


def _usage_of(body: bytes, demand: TokenDemand) -> TokenUsage:
    answer = decode_answer(body)
    return usage_of(answer, read_choices(answer), demand.text_tokens)
