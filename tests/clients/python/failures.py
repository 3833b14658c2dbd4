"""What goes wrong upstream, and which exception that becomes."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any

from openai import APIError, APIStatusError, InternalServerError, RateLimitError

from tests.clients.python.scenario import (
    ask,
    caught,
    connect,
    connect_counted,
    same,
    scenario,
)


@scenario
def upstream_credits() -> None:
    client, responses = connect_counted("open")

    error = caught(APIStatusError, ask, client, model="simulator/credits")

    same((402, "insufficient_credits"), (error.status_code, error.code))
    same([402], [response.status_code for response in responses])


@scenario
def upstream_failure() -> None:
    client = connect()

    for kind, status in {
        "error": 502,
        "unavailable": 503,
        "malformed": 502,
        "content-type": 502,
        "redirect": 502,
    }.items():
        error = caught(InternalServerError, ask, client, model=f"simulator/{kind}")
        same((kind, status), (kind, error.status_code))
        assert error.code
        assert error.message


@scenario
def upstream_rate_limit() -> None:
    client = connect()

    error = caught(RateLimitError, ask, client, model="simulator/rate-limit")

    same("rate_limit_exceeded", error.code)
    same("upstream", error.body["details"]["whose"])
    same("2", error.response.headers["retry-after"])


@scenario
def stream_refused() -> None:
    client = connect()

    error = caught(APIStatusError, ask, client, model="simulator/credits", stream=True)
    same(402, error.status_code)
    error = caught(
        InternalServerError, ask, client, model="simulator/error", stream=True
    )
    same(502, error.status_code)


def broken_stream(model: str) -> tuple[Any, list[Any]]:
    """Read a stream until it breaks: the error, and the chunks before it."""
    stream = ask(connect(), model=model, stream=True)
    chunks: list[Any] = []

    def read() -> None:
        for chunk in stream:
            chunks.append(chunk)

    # Exactly this class: a status error would say that the answer never began.
    return caught(APIError, read), chunks


@scenario
def stream_error_event() -> None:
    error, chunks = broken_stream("simulator/stream-error")

    assert chunks
    same("upstream_error", error.code)
    assert error.message


@scenario
def stream_cut() -> None:
    error, chunks = broken_stream("simulator/cut")

    assert chunks
    same([], [c for c in chunks if c.choices and c.choices[0].finish_reason])
    same("upstream_error", error.code)
