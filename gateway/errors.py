"""
What can go wrong, and what the client is told.

GatewayError                       status  code                     the client may retry
├── RequestError
│   ├── InvalidRequest             400     invalid_request_body     no
│   ├── UnsupportedParameter       400     unsupported_parameter    no
│   ├── UnsupportedOperation       400     unsupported_operation    no
│   ├── ContextTooLong             400     context_length_exceeded  no
│   ├── InvalidApiKey              401     invalid_api_key          no
│   ├── SignatureRefused           401     invalid_signature        no
│   ├── OriginRefused              403     origin_not_allowed       no
│   ├── ModelNotFound              404     model_not_found          no
│   ├── ObjectNotFound             404     not_found                no
│   ├── RouteNotFound              404     route_not_found          no
│   ├── MethodNotAllowed           405     method_not_allowed       no
│   ├── RequestTimedOut            408     request_timeout          yes
│   ├── RequestTooLarge            413     request_too_large        no
│   ├── UnsupportedEncoding        415     unsupported_content_encoding  no
│   ├── IdempotencyInFlight        409     idempotency_in_flight    yes, when told
│   ├── IdempotencyKeyReused       422     idempotency_key_reused   no
│   ├── HeadersTooLarge            431     headers_too_large        no
│   └── LimitExceeded              429     rate_limit_exceeded      yes, or never
├── UpstreamError                  502     upstream_error           yes
│   ├── UpstreamRefused            4xx     the upstream's own       as the status says
│   ├── InsufficientCredits        402     insufficient_credits     no
│   ├── UpstreamRateLimited        429     rate_limit_exceeded      yes, when told
│   ├── UpstreamOverloaded         503     upstream_overloaded      yes, when told
│   └── UpstreamTimeout            504     upstream_timeout         yes
├── Overloaded                     503     server_is_overloaded     yes, when told
├── StoreUnavailable               503     store_unavailable        yes, when told
├── ShuttingDown                   503     shutting_down            yes, elsewhere
├── MetricsUnavailable             503     metrics_unavailable      yes
├── AnswerInterrupted              503     answer_interrupted       yes
└── InternalError                  500     internal_error           yes

One end of a request has no answer, because nobody is there to read it: `ClientGone`.
`envelope` (of `gateway.envelope`, like `GatewayError`) is the only function that writes
an error body.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

from gateway.envelope import (
    Fault,
    GatewayError,
    Header,
    Outcome,
    envelope,
    retry_headers,
)

# With what is drawn here, all that a module which raises or answers errors needs.
__all__ = ["Fault", "GatewayError", "Header", "Outcome", "envelope", "retry_headers"]


class ClientGone(Exception):
    """The client left before its answer was complete."""


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


class UnsupportedOperation(RequestError):
    """Something that OpenAI can do and LLMTune cannot."""

    code = "unsupported_operation"


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


class OriginRefused(RequestError):
    """A web page asked a gateway that takes callers without a key."""

    status = 403
    code = "origin_not_allowed"
    outcome: ClassVar[Outcome] = "unauthorized"


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


class ObjectNotFound(RequestError):
    """No file, batch or job of this id in the caller's workspace."""

    status, code = 404, "not_found"

    def __init__(self, kind: str, object_id: str) -> None:
        super().__init__(f"No such {kind} object: {object_id[:128]}", param="id")


class SignatureRefused(RequestError):
    """A webhook that is not LLMTune's, as far as can be told."""

    status, code = 401, "invalid_signature"
    outcome: ClassVar[Outcome] = "unauthorized"


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


class IdempotencyInFlight(RequestError):
    """The request with this key still runs."""

    status, code = 409, "idempotency_in_flight"
    outcome: ClassVar[Outcome] = "rejected"


class IdempotencyKeyReused(RequestError):
    """Something else was asked under this key."""

    status, code = 422, "idempotency_key_reused"


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
    # The caller's to mend, like what is refused here: an operator who is paged for it
    # can do nothing.
    outcome: ClassVar[Outcome] = "invalid"
    type = "invalid_request_error"
    spends_request = True

    def __init__(self, message: str, *, status: int, code: str, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.upstream_status = status
        self.upstream_code = code
        # Nobody's work was spent on a key that opens nothing; and strangers' guesses
        # must leave nothing behind, where each is counted as a workspace of its own.
        self.spends_request = status != 401

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
    helps_elsewhere = True
    status = 503
    code = "server_is_overloaded"
    type = "service_unavailable_error"


class StoreUnavailable(GatewayError):
    """What the shared store knows is needed for an answer, and it is away."""

    outcome: ClassVar[Outcome] = "unavailable"
    helps_elsewhere = True
    status = 503
    code = "store_unavailable"
    type = "service_unavailable_error"


class ShuttingDown(GatewayError):
    """This replica is draining; another one will do."""

    outcome: ClassVar[Outcome] = "unavailable"
    helps_elsewhere = True
    status = 503
    code = "shutting_down"
    type = "service_unavailable_error"


class MetricsUnavailable(GatewayError):
    """What all workers have counted could not be had; one of them alone tells less."""

    outcome: ClassVar[Outcome] = "unavailable"
    status = 503
    code = "metrics_unavailable"
    type = "service_unavailable_error"


class AnswerInterrupted(GatewayError):
    """The replica whose answer was followed is gone; only ever said in a stream."""

    outcome: ClassVar[Outcome] = "unavailable"
    status = 503
    code = "answer_interrupted"
    type = "service_unavailable_error"


class InternalError(GatewayError):
    """A fault of ours. The id is in the log, the cause only there."""

    def __init__(self, error_id: str) -> None:
        super().__init__(f"The gateway failed; quote error id {error_id}.")
