"""What LLMTune says of a fine-tune, in its answers and in its webhooks alike."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

UpstreamStatus: TypeAlias = Literal["queued", "running", "completed", "failed"]

# The words that were seen, and those that other generations may well use.
_STATUSES: Final[dict[str, UpstreamStatus]] = {
    "queued": "queued",
    "pending": "queued",
    "running": "running",
    "started": "running",
    "training": "running",
    "completed": "completed",
    "succeeded": "completed",
    "deployed": "completed",
    "failed": "failed",
    "error": "failed",
    "cancelled": "failed",
}
MAX_TEXT_CHARS: Final = 1000
# Beyond it readers of JSON disagree on whole numbers (RFC 8259, 6).
MAX_WHOLE: Final = 2**53


class JobAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """As far as it could be read: nothing in it is certain to be there."""

    job_id: str = ""
    status: UpstreamStatus | None = None
    model_name: str | None = None
    metrics: dict[str, float] = {}
    error_code: str | None = None
    error_message: str | None = None


def read_job(said: Any) -> JobAnswer:
    """The job in a JSON object; what is of another form is left out."""
    if not isinstance(said, dict):
        return JobAnswer()
    job_id = said.get("jobId", said.get("id", ""))
    code, message = _error_in(said.get("error"))
    return JobAnswer(
        job_id=str(job_id) if isinstance(job_id, str | int) else "",
        status=_STATUSES.get(str(said.get("status", "")).lower()),
        model_name=_model_in(said),
        metrics=_numbers_in(said.get("metrics")),
        error_code=code,
        error_message=message,
    )


def read_job_body(body: bytes) -> JobAnswer:
    """The same of bytes; an empty one if they are no JSON."""
    try:
        return read_job(msgspec.json.decode(body))
    except (ValueError, RecursionError):
        return JobAnswer()


def _model_in(said: dict[str, Any]) -> str | None:
    for name in ("modelName", "fineTunedModel", "modelId"):
        found = _text(said.get(name))
        if found is not None and found != said.get("baseModel") and len(found) <= 256:
            return found
    return None


def _error_in(error: Any) -> tuple[str | None, str | None]:
    if isinstance(error, dict):
        return _text(error.get("code")), _text(error.get("message"))
    return None, _text(error)


def _numbers_in(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, dict):
        return {}
    return {
        name: value
        for name, value in list(metrics.items())[:32]
        if isinstance(name, str)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and (isinstance(value, float) or abs(value) < MAX_WHOLE)
    }


def _text(value: Any) -> str | None:
    return value[:MAX_TEXT_CHARS] if isinstance(value, str) and value else None
