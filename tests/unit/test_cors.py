"""Cross-origin answers: none by default, exact ones when on."""

from __future__ import annotations

import pytest

from gateway.cors import MAX_REQUESTED, Cors

APP = b"https://app.example.com"
OTHER = b"https://evil.example.com"
VARY = (b"vary", b"Origin")


def cors(*origins: str) -> Cors:
    return Cors(origins)


def allowed_headers(requested: bytes) -> list[str]:
    sent = dict(cors(APP.decode()).preflight(APP, requested))
    return sent[b"access-control-allow-headers"].decode().split(", ")


@pytest.mark.parametrize("origin", [None, APP])
def test_cors_is_silent_when_off(origin: bytes | None) -> None:
    assert ((), ()) == (cors().headers(origin), cors().preflight(origin, b""))


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        pytest.param(APP, APP, id="listed"),
        pytest.param(OTHER, None, id="unlisted"),
        pytest.param(None, None, id="no-origin"),
        pytest.param(b"null", None, id="null"),
        pytest.param(APP + b".evil.com", None, id="longer"),
        pytest.param(APP.upper(), None, id="other-case"),
        pytest.param(b"\xff", None, id="no-text"),
    ],
)
def test_origin_is_allowed_only_if_it_is_listed(
    origin: bytes | None, allowed: bytes | None
) -> None:
    sent = dict(cors(APP.decode()).headers(origin))

    assert allowed == sent.get(b"access-control-allow-origin")


def test_any_origin_is_allowed_by_a_star() -> None:
    assert b"*" == dict(cors("*").headers(OTHER))[b"access-control-allow-origin"]


@pytest.mark.parametrize("origin", [APP, OTHER, None])
def test_every_answer_varies_by_origin_when_on(origin: bytes | None) -> None:
    assert VARY == cors(APP.decode()).headers(origin)[0]


@pytest.mark.parametrize(
    "header",
    [
        "x-request-id",
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        "ratelimit",
        "idempotent-replayed",
    ],
)
def test_browser_may_read_what_sdks_read(header: str) -> None:
    sent = dict(cors(APP.decode()).headers(APP))

    assert header in sent[b"access-control-expose-headers"].decode().split(", ")


def test_preflight_of_an_unlisted_origin_allows_nothing() -> None:
    assert (VARY,) == cors(APP.decode()).preflight(OTHER, b"authorization")


def test_preflight_names_methods_and_lifetime() -> None:
    sent = dict(cors(APP.decode()).preflight(APP, b""))

    assert (b"GET, POST, DELETE, HEAD, OPTIONS", b"600") == (
        sent[b"access-control-allow-methods"],
        sent[b"access-control-max-age"],
    )


@pytest.mark.parametrize(
    "header",
    [
        "authorization",
        "content-type",
        "idempotency-key",
        "openai-project",
        "tracestate",
    ],
)
def test_preflight_allows_what_clients_send(header: str) -> None:
    assert header in allowed_headers(b"")


@pytest.mark.parametrize(
    ("requested", "is_allowed"),
    [
        pytest.param("x-stainless-lang", True, id="sdk-header"),
        pytest.param("X-Stainless-Retry-Count", True, id="in-capitals"),
        pytest.param("x-evil", False, id="unknown"),
        pytest.param("x-stainless-\r\nset-cookie: a", False, id="injection"),
        pytest.param("x-stainless-*", False, id="star"),
        pytest.param("x-stainless-\xe9", False, id="not-ascii"),
    ],
)
def test_preflight_allows_requested_headers_of_sdks_only(
    requested: str, is_allowed: bool
) -> None:
    found = requested.lower() in allowed_headers(requested.encode("latin-1"))

    assert is_allowed == found


def test_preflight_reads_a_bounded_number_of_headers() -> None:
    requested = b",".join(b"x-stainless-%d" % number for number in range(1000))

    extra = [name for name in allowed_headers(requested) if "stainless" in name]

    assert MAX_REQUESTED == len(extra)
