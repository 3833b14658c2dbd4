"""Upstream errors of both shapes and every status, as the errors our clients see."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    GatewayError,
    InsufficientCredits,
    ModelNotFound,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
    UpstreamRefused,
    UpstreamTimeout,
    envelope,
    retry_headers,
)
from gateway.translation.faults import (
    MAX_MESSAGE_CHARS,
    MAX_WAIT_MS,
    error_in_answer,
    error_of_event,
    error_of_status,
    read_fault,
    retry_after_ms,
)

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()

SEED = {"error": {"message": "Boom.", "code": "BAD_THING", "details": {"a": 1}}}
DOCS = {"error": "bad_thing", "message": "Boom.", "details": {"a": 1}}


def error_of(
    status: int, said: Any = SEED, headers: dict[str, str] | None = None
) -> GatewayError:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return error_of_status(status, headers or {}, body, model="m", now_s=NOW_S)


STATUSES = [
    (400, UpstreamRefused, 400, "bad_thing"),
    (401, UpstreamRefused, 401, "invalid_api_key"),
    (402, InsufficientCredits, 402, "insufficient_credits"),
    (403, UpstreamRefused, 403, "permission_denied"),
    (404, ModelNotFound, 404, "model_not_found"),
    (405, UpstreamRefused, 405, "bad_thing"),
    (408, UpstreamTimeout, 504, "upstream_timeout"),
    (409, UpstreamRefused, 409, "bad_thing"),
    (413, UpstreamRefused, 413, "bad_thing"),
    (422, UpstreamRefused, 422, "bad_thing"),
    (429, UpstreamRateLimited, 429, "rate_limit_exceeded"),
    (499, UpstreamRefused, 499, "bad_thing"),
    (500, UpstreamError, 502, "upstream_error"),
    (501, UpstreamError, 502, "upstream_error"),
    (502, UpstreamError, 502, "upstream_error"),
    (503, UpstreamOverloaded, 503, "upstream_overloaded"),
    (504, UpstreamTimeout, 504, "upstream_timeout"),
    (529, UpstreamOverloaded, 503, "upstream_overloaded"),
    (599, UpstreamError, 502, "upstream_error"),
    (301, UpstreamError, 502, "upstream_error"),
    (204, UpstreamError, 502, "upstream_error"),
]


@pytest.mark.parametrize("said", [SEED, DOCS], ids=["seed", "docs"])
@pytest.mark.parametrize(("status", "kind", "shown", "code"), STATUSES, ids=str)
def test_status_becomes_its_error(
    status: int, kind: type[GatewayError], shown: int, code: str, said: Any
) -> None:
    error = error_of(status, said)

    assert kind is type(error)
    assert (shown, code) == (error.http_status, error.error_code)


@pytest.mark.parametrize("said", [SEED, DOCS], ids=["seed", "docs"])
@pytest.mark.parametrize(
    "status",
    # A model's 404 has OpenAI's words, a redirect ours.
    [s for s, kind, *_ in STATUSES if kind is not ModelNotFound and s != 301],
)
def test_message_and_details_are_upstreams(status: int, said: Any) -> None:
    error = error_of(status, said)

    code = said["error"] if isinstance(said["error"], str) else "BAD_THING"
    details = {"a": 1, "upstream_code": code, "whose": "upstream"}
    assert ("Boom.", details) == (error.message, error.details)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"<html>Bad gateway</html>",
        b"[]",
        b"null",
        b"5",
        b"{}",
        b"\xff",
        b"[" * 9999,
        b'{"error":null}',
        b'{"error":5}',
        b'{"error":{"message":5,"code":[]}}',
    ],
    ids=lambda said: repr(said[:20]),
)
@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_body_that_explains_nothing_still_makes_an_error(
    status: int, said: bytes
) -> None:
    error = error_of(status, said)

    shown = json.loads(envelope(error))["error"]
    assert shown["message"].strip()
    assert {"whose": "upstream"} == (error.details or {"whose": "upstream"})


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"error": {"message": "Model not found"}}, ModelNotFound),
        ({"error": "not_found"}, ModelNotFound),
        (b"", ModelNotFound),
        ({"error": {"message": "No such job"}}, UpstreamRefused),
        ({"error": {"code": "JOB_NOT_FOUND"}}, UpstreamRefused),
        ({"error": "route_not_found"}, UpstreamRefused),
        ({"error": {"message": "openrouter/auto does not exist"}}, ModelNotFound),
    ],
)
def test_not_found_is_about_the_model_unless_it_says_otherwise(
    said: Any, kind: type[GatewayError]
) -> None:
    assert kind is type(error_of(404, said))


def test_param_is_upstreams_where_it_names_one() -> None:
    error = error_of(400, {"error": {"message": "x", "param": "temperature"}})

    assert "temperature" == error.param


def test_type_stands_in_for_a_missing_code() -> None:
    error = error_of(400, {"error": {"message": "x", "type": "BAD"}})

    assert "bad" == error.error_code


def test_message_is_never_of_unbounded_length() -> None:
    error = error_of(400, {"error": {"message": "x" * 50_000, "code": "y" * 50_000}})

    assert MAX_MESSAGE_CHARS == len(error.message)
    assert len(error.error_code) == MAX_MESSAGE_CHARS


def test_spent_credits_are_not_worth_a_retry() -> None:
    assert ((b"x-should-retry", b"false"),) == retry_headers(error_of(402))


WAITS = [
    pytest.param("0", 0, id="zero"),
    pytest.param("1", 1000, id="seconds"),
    pytest.param("1.5", 1500, id="fraction"),
    pytest.param(" 7 ", 7000, id="blanks"),
    pytest.param("-5", 0, id="negative"),
    pytest.param("1e400", MAX_WAIT_MS, id="infinite"),
    pytest.param("inf", MAX_WAIT_MS, id="inf"),
    pytest.param("nan", None, id="nan"),
    pytest.param("9" * 400, MAX_WAIT_MS, id="huge"),
    pytest.param("soon", None, id="word"),
    pytest.param("", None, id="empty"),
    pytest.param("Sun, 99 Foo 2026 99:99:99 GMT", None, id="no-date"),
    pytest.param("Sun, 22 Nov 2026 12:00:30 GMT", 30_000, id="date"),
    pytest.param("Sun, 22 Nov 2026 11:00:00 GMT", 0, id="date-in-the-past"),
    pytest.param("Sun, 22 Nov 2099 12:00:00 GMT", MAX_WAIT_MS, id="date-far-away"),
    pytest.param("Fri, 31 Dec 9999 23:59:59 -9999", None, id="date-beyond-time"),
    pytest.param("Sun, 22 Nov 2026 13:00:30 +0100", 30_000, id="date-of-a-zone"),
]


@pytest.mark.parametrize(("value", "expected"), WAITS)
def test_wait_is_read_from_the_header(value: str, expected: int | None) -> None:
    assert expected == retry_after_ms({"retry-after": value}, NOW_S)


@given(st.text())
def test_any_header_gives_a_bounded_wait_or_none(value: str) -> None:
    wait_ms = retry_after_ms({"retry-after": value}, NOW_S)

    assert wait_ms is None or 0 <= wait_ms <= MAX_WAIT_MS


@given(st.integers(0, 86_400))
def test_date_gives_the_seconds_until_then(wait_s: int) -> None:
    value = format_datetime(NOW + timedelta(seconds=wait_s), usegmt=True)

    assert wait_s * 1000 == retry_after_ms({"retry-after": value}, NOW_S)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (60, 60_000),
        (0.5, 500),
        (-1, 0),
        (10**400, MAX_WAIT_MS),
        (1e300, MAX_WAIT_MS),
        (True, None),
        ("60", None),
        (None, None),
        ([], None),
    ],
)
@pytest.mark.parametrize("shape", ["seed", "docs"])
def test_wait_is_read_from_the_body(
    value: Any, expected: int | None, shape: str
) -> None:
    docs = {"error": "rate_limit_exceeded", "message": "x", "retryAfter": value}
    said = docs if shape == "docs" else {"error": {"message": "x", "retryAfter": value}}

    assert expected == read_fault(json.dumps(said).encode()).retry_after_ms


@pytest.mark.parametrize("status", [429, 503, 529])
def test_wait_of_the_body_goes_before_the_headers(status: int) -> None:
    docs = {"error": "rate_limit_exceeded", "message": "x", "retryAfter": 5}

    error = error_of(status, docs, {"retry-after": "9"})

    assert 5000 == error.retry_after_ms


@pytest.mark.parametrize("status", [429, 503, 529])
def test_wait_of_the_header_reaches_the_client(status: int) -> None:
    error = error_of(status, SEED, {"retry-after": "9"})

    assert (b"retry-after", b"9") in retry_headers(error)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (SEED, "Boom."),
        (DOCS, "Boom."),
        ({"error": "boom"}, "boom"),
        ({"error": {}}, "The upstream reported an error instead of an answer."),
    ],
)
def test_error_with_status_200_is_an_upstream_error(said: Any, message: str) -> None:
    errors = [error_in_answer(said), error_of_event(json.dumps(said).encode())]

    assert [message, message] == [error.message for error in errors]
    assert [502, 502] == [error.http_status for error in errors]


def test_error_event_of_a_flat_message_keeps_it() -> None:
    assert "Boom." == error_of_event(b'{"message":"Boom."}').message


@pytest.mark.parametrize("data", [b"", b"garbage", b"5"])
def test_error_event_of_garbage_is_still_an_error(data: bytes) -> None:
    expected = "The upstream reported an error instead of an answer."

    assert expected == error_of_event(data).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["message", "code", "details"]), inner)
    ),
    max_leaves=6,
)
members = st.sampled_from(["error", "message", "details", "retryAfter"])


@given(st.dictionaries(members, json_values), st.integers(300, 599))
def test_any_error_body_makes_a_canonical_error(said: Any, status: int) -> None:
    error = error_of(status, said)

    shown = json.loads(envelope(error))["error"]
    assert {"message", "type", "param", "code"} <= shown.keys()
    assert 400 <= error.http_status < 600
