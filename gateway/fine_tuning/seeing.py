"""How a job stands, from LLMTune's answer and from what its webhooks said. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from gateway.fine_tuning.answers import JobAnswer, UpstreamStatus, read_job

# What an event says by its name alone.
EVENTS: Final[dict[str, UpstreamStatus]] = {
    "training.started": "running",
    "training.completed": "completed",
    "training.failed": "failed",
    "model.deployed": "completed",
}
DEPLOYED: Final = "model.deployed"
_RANK: Final = {None: -1, "queued": 0, "running": 1, "completed": 2, "failed": 2}
# OpenAI's names for what LLMTune tells.
_METRICS: Final = {
    "loss": "train_loss",
    "evalLoss": "valid_loss",
    "tokensPerSecond": "tokens_per_second",
    "totalTokens": "total_tokens",
}
TOTAL_TOKENS: Final = "total_tokens"


class TuneEvent(msgspec.Struct, frozen=True):
    """A webhook about a job."""

    type: str
    data: dict[str, Any]


encode_event: Final = msgspec.json.Encoder().encode
_decode_event: Final = msgspec.json.Decoder(TuneEvent).decode


def see(answer: JobAnswer, told: Iterable[bytes], base: str) -> JobAnswer:
    """
    The furthest that anybody tells; LLMTune's own answer counts before its webhooks.

    These come late, twice, or never, so that none of them can take a job back.
    """
    events = [_decode_event(raw) for raw in told]
    # The name under which a model was deployed is the one that it answers to.
    events.sort(key=lambda event: event.type != DEPLOYED)
    said = [_answer_in(event) for event in events]
    furthest = max([answer, *said], key=lambda each: _RANK[each.status])
    deployed = [each for each in said[:1] if events[0].type == DEPLOYED]
    names = [
        each.model_name
        for each in (*deployed, answer, *said)
        if each.model_name not in {None, base}
    ]
    return JobAnswer(
        job_id=answer.job_id,
        status=furthest.status,
        model_name=names[0] if names else None,
        metrics=_named(answer.metrics or furthest.metrics),
        error_code=answer.error_code or furthest.error_code,
        error_message=answer.error_message or furthest.error_message,
    )


def _answer_in(event: TuneEvent) -> JobAnswer:
    read = read_job(event.data)
    return msgspec.structs.replace(read, status=EVENTS.get(event.type))


def _named(metrics: dict[str, float]) -> dict[str, float]:
    return {_METRICS.get(name, name): value for name, value in metrics.items()}
