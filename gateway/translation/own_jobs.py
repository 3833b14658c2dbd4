"""
LLMTune's own batches and fine-tunes, passed through: bytes unchanged, checked only for
what plans and limits have to know.
"""

from __future__ import annotations

from typing import Final, NoReturn

import msgspec

from gateway.errors import InvalidRequest
from gateway.schemas.llmtune import NativeBatch, NativeFineTune
from gateway.translation.answer import decode_answer
from gateway.translation.body import decode_body
from gateway.translation.port import (
    Route,
    Stamp,
    TokenDemand,
    UpstreamRequest,
    WholeAnswer,
)
from gateway.translation.routes import check_model_id
from gateway.translation.usage import TokenUsage
from policies.estimate import estimate_text_tokens

BATCH_PATH: Final = "/batch/inference"
FINE_TUNE_PATH: Final = "/fine-tune"

_batch_decoder: Final = msgspec.json.Decoder(NativeBatch)
_fine_tune_decoder: Final = msgspec.json.Decoder(NativeFineTune)
_encode: Final = msgspec.json.Encoder().encode


class _OwnJob:
    """Implements `Translator` but for the answer; neither job streams."""

    def __init__(
        self, raw: bytes, model: str, demand: TokenDemand, route: Route, path: str
    ) -> None:
        self._raw = raw
        self.model = model
        self.is_stream = False
        self.demand = demand
        self._route = route
        self._path = path

    def find_route(self) -> Route:
        return self._route

    def to_upstream(self) -> UpstreamRequest:
        return UpstreamRequest(self._route, self._path, self._raw, is_stream=False)

    def stream(self, stamp: Stamp) -> NoReturn:
        raise AssertionError("a job does not stream")


class BatchTranslator(_OwnJob):
    """A batch, whose results go to its caller's webhook."""

    def __init__(self, raw: bytes) -> None:
        request = decode_body(raw, _batch_decoder)
        check_model_id(request.model_id, "modelId")
        ids = {str(each.id) for each in request.requests}
        if len(ids) < len(request.requests):
            raise InvalidRequest("The requests' ids have to differ.", param="requests")
        tokens = [
            estimate_text_tokens(
                (each.prompt or "") + _encode(each.messages or "").decode()
            )
            for each in request.requests
        ]
        demand = TokenDemand(
            input_tokens=sum(tokens),
            text_tokens=sum(tokens),
            longest_input_tokens=max(tokens),
            max_output_tokens=None,
            choices=len(tokens),
            input_param="requests",
        )
        super().__init__(raw, request.model_id, demand, "batch", BATCH_PATH)

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer:
        decode_answer(body)
        prompts = TokenUsage(self.demand.input_tokens, 0, is_reported=False)
        # What its answers take is told to its caller's webhook, never to us.
        return WholeAnswer(body, prompts, is_as_reserved=True)


class FineTuneTranslator(_OwnJob):
    """A fine-tune, which is one request and no tokens."""

    def __init__(self, raw: bytes) -> None:
        request = decode_body(raw, _fine_tune_decoder)
        check_model_id(request.base_model, "baseModel")
        nothing = TokenDemand(input_tokens=0, text_tokens=0, max_output_tokens=0)
        super().__init__(raw, request.base_model, nothing, "fine_tune", FINE_TUNE_PATH)

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer:
        decode_answer(body)
        return WholeAnswer(body, TokenUsage(0, 0, is_reported=True))
