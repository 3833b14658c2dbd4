"""What httpx raises: every transport error of its tree has an error of ours."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from gateway.errors import (
    UpstreamError,
    UpstreamOverloaded,
    UpstreamTimeout,
    envelope,
)
from gateway.upstream.faults import from_transport_error, is_before_sending

SECRET = "http://user:secret@10.0.0.1:8000"


def tree(of: type[httpx.TransportError]) -> Iterator[type[httpx.TransportError]]:
    yield of
    for each in of.__subclasses__():
        yield from tree(each)


ALL = sorted(set(tree(httpx.TransportError)), key=lambda kind: kind.__name__)

EXPECTED = {
    "TransportError": (UpstreamError, "The connection to the upstream failed."),
    "TimeoutException": (UpstreamTimeout, "The upstream did not answer in time."),
    "ConnectTimeout": (
        UpstreamTimeout,
        "The upstream did not accept a connection in time.",
    ),
    "ReadTimeout": (UpstreamTimeout, "The upstream did not answer in time."),
    "WriteTimeout": (UpstreamTimeout, "The upstream did not answer in time."),
    "PoolTimeout": (UpstreamOverloaded, "Every connection to the upstream is in use."),
    "NetworkError": (UpstreamError, "The connection to the upstream failed."),
    "ConnectError": (UpstreamError, "The upstream refused the connection."),
    "ReadError": (UpstreamError, "The connection to the upstream failed."),
    "WriteError": (UpstreamError, "The connection to the upstream failed."),
    "CloseError": (UpstreamError, "The connection to the upstream failed."),
    "ProxyError": (UpstreamError, "The proxy to the upstream failed."),
    "UnsupportedProtocol": (UpstreamError, "The connection to the upstream failed."),
    "ProtocolError": (
        UpstreamError,
        "The upstream broke the HTTP protocol or hung up.",
    ),
    "LocalProtocolError": (
        UpstreamError,
        "The upstream broke the HTTP protocol or hung up.",
    ),
    "RemoteProtocolError": (
        UpstreamError,
        "The upstream broke the HTTP protocol or hung up.",
    ),
}


def test_every_transport_error_of_httpx_is_known_here() -> None:
    assert sorted(EXPECTED) == [kind.__name__ for kind in ALL]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_transport_error_becomes_an_error_of_ours(
    kind: type[httpx.TransportError],
) -> None:
    error = from_transport_error(kind(SECRET))

    assert EXPECTED[kind.__name__] == (type(error), error.message)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_transport_error_shows_no_address_and_no_key(
    kind: type[httpx.TransportError],
) -> None:
    assert b"secret" not in envelope(from_transport_error(kind(SECRET)))


def test_only_a_failed_connection_is_before_sending() -> None:
    before = {kind.__name__ for kind in ALL if is_before_sending(kind("x"))}

    assert {"ConnectError", "ConnectTimeout"} == before


def test_full_pool_says_when_to_come_back() -> None:
    assert 1000 == from_transport_error(httpx.PoolTimeout("x")).retry_after_ms
