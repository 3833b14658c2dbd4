"""What the gateway refuses, and which exception that becomes."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from openai import (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    RateLimitError,
)

from tests.clients.python.scenario import (
    ask,
    caught,
    connect,
    connect_counted,
    same,
    scenario,
)


@scenario
def wrong_key() -> None:
    client, responses = connect_counted("open", api_key="llmtune_gw_wrong")

    error = caught(AuthenticationError, ask, client)

    same((401, "invalid_api_key", None), (error.status_code, error.code, error.param))
    same("invalid_request_error", error.type)
    same(error.response.headers["x-request-id"], error.request_id)
    assert "llmtune_gw_wrong" not in str(error)
    same([401], [response.status_code for response in responses])
    caught(AuthenticationError, client.models.list)


@scenario
def unknown_model() -> None:
    client = connect()

    for fields in ({}, {"stream": True}, {"n": 2}):
        error = caught(NotFoundError, ask, client, model="acme/none", **fields)
        same((404, "model_not_found"), (error.status_code, error.code))
        assert "`acme/none`" in error.message


@scenario
def bad_parameter() -> None:
    client = connect()
    wrong = {
        "temperature": 3,
        "n": 0,
        "max_tokens": -1,
        "messages": [],
        "stop": ["a", "b", "c", "d", "e"],
    }

    for param, value in wrong.items():
        error = caught(BadRequestError, ask, client, **{param: value})
        same((400, param), (error.status_code, error.param))
        same("invalid_request_error", error.type)


@scenario
def prompt_too_long() -> None:
    client = connect("short-prompts")
    messages = [{"role": "user", "content": "word " * 500}]

    error = caught(BadRequestError, ask, client, messages=messages)

    same("context_length_exceeded", error.code)
    same("messages", error.param)


@scenario
def unknown_route() -> None:
    client = connect()

    error = caught(NotFoundError, client.moderations.create, input="Is this fine?")

    same("route_not_found", error.code)
    assert error.message


@scenario
def rate_limit() -> None:
    client = connect("rate-of-one")
    ask(client)

    error = caught(RateLimitError, ask, client)

    same((429, "rate_limit_exceeded"), (error.status_code, error.code))
    same("rate_limit_error", error.type)
    assert "Rate limit reached" in error.message
    same("gateway", error.body["details"]["whose"])
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    same("0", headers["x-ratelimit-remaining-requests"])
    assert headers.get("x-should-retry") != "false"


@scenario
def rate_limit_retried() -> None:
    client, responses = connect_counted("one-a-second")
    ask(client)

    # No other wait than the one it was told is so short and yet enough.
    raw = client.chat.completions.with_raw_response.create(
        model="llmtune-mini", messages=[{"role": "user", "content": "Again"}]
    )

    assert raw.parse().choices[0].message.content
    same(1, raw.retries_taken)
    same([200, 429, 200], [response.status_code for response in responses])
    assert 0 < int(responses[1].headers["retry-after-ms"]) <= 1000


@scenario
def quota_not_retried() -> None:
    client, responses = connect_counted("quota-of-one")
    ask(client)

    error = caught(RateLimitError, ask, client)

    same(("insufficient_quota", "insufficient_quota"), (error.code, error.type))
    same("false", error.response.headers["x-should-retry"])
    same([200, 429], [response.status_code for response in responses])


@scenario
def too_large_not_retried() -> None:
    client, responses = connect_counted("few-tokens")

    error = caught(RateLimitError, ask, client, max_tokens=500)

    same("request_exceeds_limit", error.code)
    same([429], [response.status_code for response in responses])
