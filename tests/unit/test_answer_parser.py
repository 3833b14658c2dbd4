"""What bounds the parts of an answer that nobody reads."""

from __future__ import annotations

import httpx
import pytest

from gateway.upstream.answer_parser import MAX_HEADERS, AnswerParser

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


@pytest.mark.parametrize(
    "trailers",
    [
        pytest.param(b"x-trailer: x\r\n" * (MAX_HEADERS + 1), id="many"),
        pytest.param(b"x-trailer: %b\r\n" % (b"x" * 200_000), id="long"),
    ],
)
def test_trailers_are_bounded_though_a_body_came_before(trailers: bytes) -> None:
    """In one packet with it, too."""
    parser = AnswerParser(lambda _: None)

    with pytest.raises(httpx.RemoteProtocolError):
        parser.feed(CHUNKED + trailers + b"\r\n")


def test_a_few_trailers_are_passed_over() -> None:
    body: list[bytes] = []
    parser = AnswerParser(body.append)

    parser.feed(CHUNKED + b"x-trailer: x\r\n\r\n")

    assert parser.is_complete
    assert body == [b"{}"]
