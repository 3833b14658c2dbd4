"""
What the upstream says went wrong, in either of its two shapes, as our errors.

The status is kept, LLMTune's `details` are kept, and `details.whose` says that it is
the upstream's limit and not the plan's.
"""

from __future__ import annotations

import email.utils
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.errors import (
    InsufficientCredits,
    ModelNotFound,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
)

_decode: Final = msgspec.json.Decoder().decode

# An error text is shown to the client; a page of HTML or a stack trace is not.
MAX_MESSAGE_CHARS: Final = 1000

# A day: more is a mistake, and would overflow clients' timers.
MAX_WAIT_MS: Final = 86_400_000


class UpstreamFault(msgspec.Struct, frozen=True):
    """An upstream error body, freed from its shape."""

    message: str | None = None
    code: str | None = None
    param: str | None = None
    details: dict[str, Any] | None = None
    retry_after_ms: int | None = None


def read_fault(body: bytes) -> UpstreamFault:
    """The fault a body describes; an empty one if it describes none."""
    try:
        said = _decode(body)
    except (ValueError, RecursionError):
        return UpstreamFault()
    return _fault_in(said) if isinstance(said, dict) else UpstreamFault()


def _fault_in(said: dict[str, Any]) -> UpstreamFault:
    error = said.get("error")
    if isinstance(error, dict):
        details = error.get("details")
        return UpstreamFault(
            message=_text(error.get("message")),
            code=_text(error.get("code")) or _text(error.get("type")),
            param=_text(error.get("param")) or _field_of(details),
            details=details if isinstance(details, dict) else None,
            retry_after_ms=_seconds_to_ms(error.get("retryAfter")),
        )
    details = said.get("details")
    return UpstreamFault(
        message=_text(said.get("message")) or _text(error),
        code=_text(error),
        details=details if isinstance(details, dict) else None,
        retry_after_ms=_seconds_to_ms(said.get("retryAfter")),
    )


# As words: a model may well be called openrouter/auto.
_OTHER_RESOURCES: Final = re.compile(
    r"(?<![a-z])(job|route|batch)(?![a-z])", re.IGNORECASE
)


def error_in_answer(answer: dict[str, Any]) -> UpstreamError:
    """An error that came with status 200, in an answer or in an event of a stream."""
    return _reported(_fault_in(answer))


def error_of_event(data: bytes) -> UpstreamError:
    """An event that its name calls an error, whatever its data look like."""
    return _reported(read_fault(data))


def _reported(fault: UpstreamFault) -> UpstreamError:
    return UpstreamError(
        fault.message or "The upstream reported an error instead of an answer.",
        details=_details(fault),
        fault="error_in_answer",
    )


def error_of_status(
    status: int, headers: Mapping[str, str], body: bytes, *, model: str, now_s: float
) -> UpstreamError | ModelNotFound:
    """The error for an upstream answer that is not a 200."""
    fault = read_fault(body)
    wait_ms = fault.retry_after_ms
    if wait_ms is None:
        wait_ms = retry_after_ms(headers, now_s)
    details = _details(fault)
    message = fault.message
    match status:
        case 408 | 504:
            return UpstreamTimeout(
                message or "The upstream timed out.", details=details
            )
        case 429:
            return UpstreamRateLimited(
                message or "The upstream's rate limit is reached.",
                details=details,
                retry_after_ms=wait_ms,
            )
        case 503 | 529:
            return UpstreamOverloaded(
                message or "The upstream is overloaded.",
                details=details,
                retry_after_ms=wait_ms,
            )
        case _ if 400 <= status < 500:
            return _refusal(status, fault, model)
        case _ if 300 <= status < 400:
            # Its text, if any, sends people elsewhere; nobody here will go.
            return UpstreamError(
                f"The upstream answered with a redirect ({status}), which nobody"
                " follows.",
                details=details,
                fault="redirect",
            )
        case _:
            return UpstreamError(
                message or f"The upstream answered with status {status}.",
                details=details,
                fault="failed",
            )


def _refusal(
    status: int, fault: UpstreamFault, model: str
) -> UpstreamError | ModelNotFound:
    """What the upstream says is wrong with the request, its key or its account."""
    message, details = fault.message, _details(fault)
    match status:
        case 404 if _is_about_model(fault):
            return ModelNotFound(model, details)
        case 401 | 403:
            # The key that was refused is ours or the caller's; `UpstreamClient` knows.
            return UpstreamRefused(
                message or "The upstream refused the API key.",
                status=status,
                code="invalid_api_key" if status == 401 else "permission_denied",
                details=details,
                fault="key_refused",
            )
        case 402:
            return InsufficientCredits(
                message or "The LLMTune balance is used up.",
                details=details,
                is_retryable=False,
            )
        case _:
            return UpstreamRefused(
                message or f"The upstream refused the request with status {status}.",
                status=status,
                code=(fault.code or "upstream_refused").lower(),
                param=fault.param,
                details=details,
            )


def retry_after_ms(headers: Mapping[str, str], now_s: float) -> int | None:
    """The wait an upstream asks for by header: seconds or a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        return _bounded_ms(float(value) * 1000)
    except (ValueError, OverflowError):
        pass  # not a number, so it may be a date
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return _bounded_ms((moment.timestamp() - now_s) * 1000)
    except (ValueError, OverflowError):
        # An unreadable header is no reason to fail; the client falls back to its own.
        return None


def _is_about_model(fault: UpstreamFault) -> bool:
    # LLMTune answers 404 for models, jobs and resources alike; only jobs say so.
    text = f"{fault.code or ''} {fault.message or ''}"
    return _OTHER_RESOURCES.search(text) is None


def _details(fault: UpstreamFault) -> dict[str, Any]:
    details = dict(fault.details or {})
    if fault.code:
        details.setdefault("upstream_code", fault.code)
    details["whose"] = "upstream"
    return details


def _field_of(details: Any) -> str | None:
    return _text(details.get("field")) if isinstance(details, dict) else None


def _text(value: Any) -> str | None:
    return value[:MAX_MESSAGE_CHARS] if isinstance(value, str) and value else None


def _seconds_to_ms(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return _bounded_ms(value * 1000)


def _bounded_ms(value_ms: float) -> int | None:
    # JSON's integers have no bound, and no float can hold the largest.
    if isinstance(value_ms, float) and math.isnan(value_ms):
        return None
    return int(min(max(0.0, value_ms), MAX_WAIT_MS))
