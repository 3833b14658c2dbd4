"""
What can go wrong, and what the client is told.

GatewayError                       status  code                     the client may retry
├── RequestError
│   ├── InvalidRequest             400     invalid_request_body     no
│   ├── UnsupportedParameter       400     unsupported_parameter    no
│   ├── ContextTooLong             400     context_length_exceeded  no
│   ├── InvalidApiKey              401     invalid_api_key          no
│   ├── ModelNotFound              404     model_not_found          no
│   ├── RouteNotFound              404     route_not_found          no
│   ├── MethodNotAllowed           405     method_not_allowed       no
│   ├── RequestTimedOut            408     request_timeout          yes
│   ├── RequestTooLarge            413     request_too_large        no
│   ├── UnsupportedEncoding        415     unsupported_content_encoding  no
│   ├── HeadersTooLarge            431     headers_too_large        no
│   └── LimitExceeded              429     rate_limit_exceeded      yes, or never
├── UpstreamError                  502     upstream_error           yes
│   ├── UpstreamRefused            4xx     the upstream's own       as the status says
│   ├── InsufficientCredits        402     insufficient_credits     no
│   ├── UpstreamRateLimited        429     rate_limit_exceeded      yes, when told
│   ├── UpstreamOverloaded         503     upstream_overloaded      yes, when told
│   └── UpstreamTimeout            504     upstream_timeout         yes
├── Overloaded                     503     server_is_overloaded     yes, when told
├── ShuttingDown                   503     shutting_down            yes, elsewhere
└── InternalError                  500     internal_error           yes

One end of a request has no answer, because nobody is there to read it: `ClientGone`.
`envelope` is the only function that writes an error body.
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


class ClientGone(Exception):
    """The client left before its answer was complete."""


class GatewayError(Exception):
    """Anything the client is told in an envelope."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"
    outcome: ClassVar[Outcome] = "failed"
    # Whether a failed request still spends one of the plan's requests: yes where the
    # client is at fault, no where the gateway or the upstream is. Tokens are never
    # spent.
    spends_request: ClassVar[bool] = False

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


class RequestError(GatewayError):
    """The request cannot be served as it is."""

    status = 400
    code = "invalid_request_body"
    type = "invalid_request_error"
    outcome: ClassVar[Outcome] = "invalid"


class InvalidRequest(RequestError):
    """The body is not what the route takes."""


class UnsupportedParameter(RequestError):
    """A parameter that the chosen upstream route cannot carry."""

    code = "unsupported_parameter"


class ContextTooLong(RequestError):
    """More input tokens than the plan lets one request have."""

    code = "context_length_exceeded"


class InvalidApiKey(RequestError):
    """No key, or one that opens nothing."""

    status = 401
    code = "invalid_api_key"
    outcome: ClassVar[Outcome] = "unauthorized"
    # The short id of the key that was refused: for the log, not for the client.
    key_id: str | None = None


class ModelNotFound(RequestError):
    """The model does not exist, or not for this plan."""

    # Where it was the upstream that did not know it; a plan's own refusal is not
    # charged.
    spends_request = True
    status = 404
    code = "model_not_found"

    def __init__(self, model: str, details: dict[str, Any] | None = None) -> None:
        # A model id is the client's own text: shown, but never at unbounded length.
        shown = model if len(model) <= 128 else f"{model[:128]}..."
        super().__init__(
            f"The model `{shown}` does not exist or you do not have access to it.",
            details=details,
        )


class RouteNotFound(RequestError):
    """No such path."""

    status, code = 404, "route_not_found"


class MethodNotAllowed(RequestError):
    """The path exists, with other methods."""

    status, code = 405, "method_not_allowed"

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(
            f"Method {method} is not allowed here; use {allowed}.",
            headers=((b"allow", allowed.encode("ascii")),),
        )


class RequestTimedOut(RequestError):
    """The client did not send its request in time."""

    status, code = 408, "request_timeout"


class UnsupportedEncoding(RequestError):
    """A body in an encoding that is not read here."""

    status = 415
    code = "unsupported_content_encoding"


class RequestTooLarge(RequestError):
    """The body is larger than the gateway or the plan takes."""

    status = 413
    code = "request_too_large"


class HeadersTooLarge(RequestError):
    """The header section is larger than the gateway takes."""

    status = 431
    code = "headers_too_large"


LimitCode: TypeAlias = Literal[
    "rate_limit_exceeded",
    "concurrency_limit_exceeded",
    "insufficient_quota",
    "request_exceeds_limit",
]


class LimitExceeded(RequestError):
    """The plan's limits refused the request."""

    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    outcome: ClassVar[Outcome] = "rejected"

    def __init__(self, message: str, *, limit_code: LimitCode, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.limit_code = limit_code

    @property
    def error_code(self) -> str:
        return self.limit_code

    @property
    def error_type(self) -> str:
        # OpenAI names a spent budget by type as well as by code.
        if self.limit_code == "insufficient_quota":
            return "insufficient_quota"
        return self.type


class UpstreamError(GatewayError):
    """The upstream failed, or said something that is not an answer."""

    status = 502
    code = "upstream_error"
    type = "upstream_error"
    outcome: ClassVar[Outcome] = "upstream_error"
    # What stands in the log where no finer word was given.
    default_fault: ClassVar[Fault] = "bad_answer"

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message, **{"fault": self.default_fault, **fields})


class UpstreamRefused(UpstreamError):
    """The upstream says that the request is wrong; status and code are its own."""

    default_fault: ClassVar[Fault] = "refused"
    type = "invalid_request_error"
    spends_request = True

    def __init__(self, message: str, *, status: int, code: str, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.upstream_status = status
        self.upstream_code = code

    @property
    def http_status(self) -> int:
        return self.upstream_status

    @property
    def error_code(self) -> str:
        return self.upstream_code


class InsufficientCredits(UpstreamError):
    """The LLMTune balance behind this gateway is used up."""

    default_fault: ClassVar[Fault] = "no_credits"
    status = 402
    code = "insufficient_credits"
    type = "insufficient_quota"


class UpstreamRateLimited(UpstreamError):
    """LLMTune's own rate limit, not the plan's."""

    default_fault: ClassVar[Fault] = "rate_limited"
    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"


class UpstreamOverloaded(UpstreamError):
    """The upstream has no room, or we have no connection to it left."""

    default_fault: ClassVar[Fault] = "overloaded"
    status = 503
    code = "upstream_overloaded"
    type = "service_unavailable_error"


class UpstreamTimeout(UpstreamError):
    """The upstream was too slow at one of its deadlines."""

    default_fault: ClassVar[Fault] = "timeout"
    status = 504
    code = "upstream_timeout"


class Overloaded(GatewayError):
    """This replica has as many requests in flight as it may."""

    outcome: ClassVar[Outcome] = "unavailable"
    status = 503
    code = "server_is_overloaded"
    type = "service_unavailable_error"


class ShuttingDown(GatewayError):
    """This replica is draining; another one will do."""

    outcome: ClassVar[Outcome] = "unavailable"
    status = 503
    code = "shutting_down"
    type = "service_unavailable_error"


class InternalError(GatewayError):
    """A fault of ours. The id is in the log, the cause only there."""

    def __init__(self, error_id: str) -> None:
        super().__init__(f"The gateway failed; quote error id {error_id}.")


class _Body(msgspec.Struct, omit_defaults=True):
    # All four of OpenAI's keys are always present; only LLMTune's own may be absent.
    message: str = msgspec.field()
    type: str = msgspec.field()
    param: str | None = msgspec.field()
    code: str | None = msgspec.field()
    details: dict[str, Any] | None = None


class _Envelope(msgspec.Struct):
    error: _Body


_encode = msgspec.json.Encoder().encode


def envelope(error: GatewayError) -> bytes:
    """The one JSON form of every error, from any layer."""
    return _encode(
        _Envelope(
            _Body(
                message=error.message,
                type=error.error_type,
                param=error.param,
                code=error.error_code,
                details=error.details,
            )
        )
    )


def retry_headers(error: GatewayError) -> tuple[Header, ...]:
    """How long to wait and whether to, in the headers that SDKs read."""
    headers: list[Header] = []
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
