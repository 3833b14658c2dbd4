"""Single inferences, whole and in every stream form."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from gateway.simulator.answers import Inference, answer_body
from gateway.simulator.errors import bad_request
from gateway.simulator.replies import AnyReply, json_reply, streamed
from gateway.simulator.requests import NO_METADATA, InferenceRequest
from gateway.simulator.settings import SimulatorSettings
from gateway.simulator.stats import StatsBoard
from gateway.simulator.streams import (
    ChunkFrame,
    StreamedChoice,
    chunk_events,
    object_events,
    text_deltas,
)
from gateway.simulator.text import compose, count_tokens, digest_of


class InferenceModel:
    """Answers inference requests, pure but for the usage it counts."""

    def __init__(
        self, settings: SimulatorSettings, board: StatsBoard, now: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._board = board
        self._now = now

    def check(self, request: InferenceRequest) -> None:
        """The Nov 2025 generation needs `prompt`, another one `messages`."""
        requires = self._settings.requires
        if requires == "prompt" and request.prompt is None:
            raise bad_request("prompt is required", "prompt")
        if requires == "messages" and request.messages is None:
            raise bad_request("messages are required", "messages")
        if request.text is None:
            raise bad_request("prompt or messages is required", "prompt")

    def infer(self, model: str, request: InferenceRequest) -> AnyReply:
        text, metadata = request.text or "", request.metadata
        done = self.answer(model, text, request.limit, metadata)
        form = self._settings.stream_form
        if not request.stream or form == "json":
            body = answer_body(done, self._settings.generation)
            return json_reply(body, len(done.composition.pieces))
        if form == "chunks":
            created = int(self._now())
            events = partial(inference_chunks, done, created, request.wants_usage)
        else:
            events = partial(object_events, form, done.composition.pieces)
        return streamed(events, len(done.composition.pieces))

    def answer(
        self,
        model: str,
        prompt: str,
        limit: int,
        metadata: msgspec.Raw = NO_METADATA,
    ) -> Inference:
        settings = self._settings
        digest = digest_of(model, prompt, 0, settings.seed)
        composition = compose(
            digest, settings.answer_tokens_min, settings.answer_tokens_max, limit
        )
        written = len(composition.pieces)
        prompt_tokens = count_tokens(prompt)
        self._board.used(prompt_tokens, written)
        # What the answer will have taken: the knobs' times, not the clock's.
        latency_ms = settings.ttft_ms + 1000 * written * settings.token_interval_s
        return Inference(
            answer_id=f"inf_{digest.hex()}",
            model=model,
            composition=composition,
            prompt_tokens=prompt_tokens,
            latency_ms=round(latency_ms),
            metadata=metadata,
        )


def inference_chunks(
    done: Inference, created: int, with_usage: bool
) -> Iterator[bytes]:
    frame = ChunkFrame(done.answer_id, done.model, created, with_usage=with_usage)
    deltas = text_deltas(done.composition.pieces)
    choice = StreamedChoice(deltas, done.finish_reason)
    return chunk_events(frame, [choice], done.usage if with_usage else None)
