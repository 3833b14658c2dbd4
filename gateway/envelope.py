"""
What every error says, and the one form in which it is said. The errors themselves are
in `gateway.errors`.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final, Literal, TypeAlias

import msgspec

Header: TypeAlias = tuple[bytes, bytes]
Outcome: TypeAlias = Literal[
    "ok",
    "invalid",
    "unauthorized",
    "rejected",
    "upstream_error",
    "client_gone",
    "unavailable",
    "failed",
]
# What an upstream did, finer than the codes that clients branch on: for logs, metrics.
Fault: TypeAlias = Literal[
    "connect_failed",
    "connect_timeout",
    "pool_full",
    "hung_up",
    "timeout",
    "bad_answer",
    "too_large",
    "error_in_answer",
    "cut_short",
    "redirect",
    "own_key_refused",
    "key_refused",
    "refused",
    "no_credits",
    "rate_limited",
    "overloaded",
    "failed",
]

# Clients sleep for whole seconds, so 0 would make them retry at once, in step.
RETRY_AFTER_FLOOR_S: Final = 1

# OpenAI's SDKs wait as told up to one or two minutes and then either give up or, older
# ones, retry on a schedule of their own; openai-node 6 sleeps however long it is told.
# Beyond a minute the truth is sent together with the advice not to retry.
LONGEST_USEFUL_WAIT_MS: Final = 60_000


class GatewayError(Exception):
    """Anything the client is told in an envelope."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    outcome: ClassVar[Outcome] = "failed"
    # Whether a failed request still spends one of the plan's requests: yes where the
    # client is at fault, no where the gateway or the upstream is. Tokens are never
    # spent.
    spends_request: bool = False
    # Whether another replica may answer what this one cannot.
    helps_elsewhere: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        retry_after_ms: int | None = None,
        is_retryable: bool | None = None,
        headers: tuple[Header, ...] = (),
        fault: Fault | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.param = param
        self.details = details
        self.retry_after_ms = retry_after_ms
        self.is_retryable = is_retryable
        self.headers = headers

    @property
    def http_status(self) -> int:
        return self.status

    @property
    def error_code(self) -> str:
        return self.code

    @property
    def error_type(self) -> str:
        return self.type


class ErrorBody(msgspec.Struct, omit_defaults=True):
    """An error as the client reads it: what the envelope holds."""

    # All four of OpenAI's keys are always present; only LLMTune's own may be absent.
    message: str = msgspec.field()
    type: str = msgspec.field()
    param: str | None = msgspec.field()
    code: str | None = msgspec.field()
    details: dict[str, Any] | None = None


class _Envelope(msgspec.Struct):
    error: ErrorBody


_encode = msgspec.json.Encoder().encode


def envelope(error: GatewayError) -> bytes:
    """The one JSON form of every error, from any layer."""
    return _encode(_Envelope(to_error_body(error)))


def to_error_body(error: GatewayError) -> ErrorBody:
    """What the client is told, as a value."""
    return ErrorBody(
        message=error.message,
        type=error.error_type,
        param=error.param,
        code=error.error_code,
        details=error.details,
    )


# Besides 5xx: conflicts, and too many.
RETRIED_BY_PROXIES: Final = frozenset({409, 429})


def retry_headers(error: GatewayError) -> tuple[Header, ...]:
    """How long to wait and whether to, in the headers that SDKs and Envoy read."""
    headers: list[Header] = []
    status = error.http_status
    if (status >= 500 or status in RETRIED_BY_PROXIES) and not error.helps_elsewhere:
        # What Envoy does not retry, whatever its routes say: the gateway has done so
        # where that is safe, and the client's SDK will. A third would multiply them.
        headers.append((b"x-envoy-ratelimited", b"true"))
    is_retryable = error.is_retryable
    if error.retry_after_ms is not None:
        wait_ms = error.retry_after_ms
        wait_s = max(RETRY_AFTER_FLOOR_S, math.ceil(wait_ms / 1000))
        headers.append((b"retry-after", b"%d" % wait_s))
        headers.append((b"retry-after-ms", b"%d" % wait_ms))
        if wait_ms > LONGEST_USEFUL_WAIT_MS:
            is_retryable = False
    if is_retryable is not None:
        headers.append((b"x-should-retry", b"true" if is_retryable else b"false"))
    return tuple(headers)
