"""
What the simulated LLMTune refuses, in the two error shapes LLMTune has been seen with.

SimulatorError        status  code (shape seed)         code (shape docs)
├── bad_request       400     BAD_REQUEST               bad_request
├── unauthorized      401     UNAUTHORIZED              unauthorized
├── no credits        402     INSUFFICIENT_CREDITS      insufficient_credits
├── not_found         404     *_NOT_FOUND               *_not_found
├── rate limited      429     RATE_LIMIT_EXCEEDED       rate_limit_exceeded
└── broken            500     INTERNAL_ERROR            internal_error
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from gateway.simulator.replies import Reply
from gateway.simulator.settings import ErrorShape

Details: TypeAlias = dict[str, str | int | list[str]]


class SimulatorError(Exception):
    """A refusal, before its shape is chosen."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Details | None = None,
        retry_after_s: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details: Details = details or {}
        self.retry_after_s = retry_after_s
        self.headers = headers


def bad_request(
    message: str, field: str | None = None, code: str = "BAD_REQUEST"
) -> SimulatorError:
    details: Details = {} if field is None else {"field": field}
    return SimulatorError(400, code, message, details=details)


def unauthorized(message: str) -> SimulatorError:
    return SimulatorError(401, "UNAUTHORIZED", message)


def not_found(noun: str, message: str) -> SimulatorError:
    code = f"{noun.upper()}_NOT_FOUND" if noun else "NOT_FOUND"
    return SimulatorError(404, code, message)


def error_body(error: SimulatorError, shape: ErrorShape) -> bytes:
    wait = {} if error.retry_after_s is None else {"retryAfter": error.retry_after_s}
    body: dict[str, object]
    if shape == "docs":
        body = {"error": error.code.lower(), "message": error.message, **wait}
    else:
        details = {**error.details, **wait}
        body = {
            "error": {"message": error.message, "code": error.code, "details": details}
        }
    return msgspec.json.encode(body)


def error_reply(error: SimulatorError, shape: ErrorShape) -> Reply:
    headers = error.headers
    if error.retry_after_s is not None:
        headers += ((b"retry-after", b"%d" % error.retry_after_s),)
    return Reply(error_body(error, shape), status=error.status, headers=headers)
