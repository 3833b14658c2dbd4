"""
One inference, answered in any of the three generations of the answer.

1. `{text, tokens, model, latency, metadata}`, tokens one total
2. the same, tokens an object of input and output counts
3. `{id, model, usage, choices}`
"""

from __future__ import annotations

import msgspec

from gateway.simulator.requests import NO_METADATA
from gateway.simulator.settings import Generation
from gateway.simulator.text import Composition


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Inference(msgspec.Struct, frozen=True):
    """An inference done: what every generation of the answer is made from."""

    answer_id: str
    model: str
    composition: Composition
    prompt_tokens: int
    latency_ms: int
    metadata: msgspec.Raw = NO_METADATA

    @property
    def usage(self) -> Usage:
        return usage_of(self.prompt_tokens, len(self.composition.pieces))

    @property
    def finish_reason(self) -> str:
        return "stop" if self.composition.is_finished else "length"


def usage_of(prompt_tokens: int, completion_tokens: int) -> Usage:
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


def tokens_field(usage: Usage, generation: Generation) -> object:
    """The `tokens` of an answer, of a batch's result too."""
    if generation == 1:
        return usage.total_tokens
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens}


def answer_body(done: Inference, generation: Generation) -> dict[str, object]:
    if generation == 3:
        return choices_body(done)
    return {
        "text": done.composition.text,
        "tokens": tokens_field(done.usage, generation),
        "model": done.model,
        "latency": done.latency_ms,
        "metadata": done.metadata,
    }


def choices_body(done: Inference) -> dict[str, object]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": done.composition.text},
        "finish_reason": done.finish_reason,
    }
    body: dict[str, object] = {
        "id": done.answer_id,
        "model": done.model,
        "usage": done.usage,
        "choices": [choice],
    }
    if done.metadata != NO_METADATA:
        body["metadata"] = done.metadata
    return body
