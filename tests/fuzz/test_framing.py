"""Requests whose framing two parsers could read apart: one refusal, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.heads import SIMPLE
from tests.fuzz.test_fuzz import fuzzed_gateway
from tests.fuzz.wire import NoAnswer, Peer, complaint

HIDDEN: Final = b"GET /livez HTTP/1.1\r\nhost: g\r\n\r\n"
LENGTH: Final = b"content-length: %d\r\n" % len(SIMPLE)
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
EMPTY: Final = b"\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        pytest.param(LENGTH + CHUNKED + EMPTY, id="cl-te"),
        pytest.param(CHUNKED + LENGTH + b"\r\n" + SIMPLE, id="te-cl"),
        pytest.param(CHUNKED + CHUNKED + EMPTY, id="te-te"),
        pytest.param(LENGTH + b"content-length: 3\r\n\r\n" + SIMPLE, id="two-lengths"),
        pytest.param(LENGTH + LENGTH + b"\r\n" + SIMPLE, id="the-same-length-twice"),
        pytest.param(b"transfer-encoding : chunked\r\n" + EMPTY, id="space-in-name"),
        pytest.param(b"transfer-encoding: chunked, x\r\n" + EMPTY, id="chunked-first"),
        pytest.param(b"x: a\r\n transfer-encoding: chunked\r\n" + EMPTY, id="folded"),
        pytest.param(b"content-length: -1\r\n\r\n" + SIMPLE, id="negative"),
        pytest.param(b"content-length: 0x59\r\n\r\n" + SIMPLE, id="hexadecimal"),
        pytest.param(b"content-length: +89\r\n\r\n" + SIMPLE, id="signed"),
        pytest.param(b"content-length: 8 9\r\n\r\n" + SIMPLE, id="space-in-length"),
        pytest.param(b"x: a\nhost: b\r\n\r\n", id="bare-line-feed"),
        pytest.param(b"x: a\rhost: b\r\n\r\n", id="bare-carriage-return"),
        pytest.param(b"x\x00: a\r\n\r\n", id="nul-in-name"),
        pytest.param(b"x: a\x00b\r\n\r\n", id="nul-in-value"),
    ],
)
async def test_request_of_doubtful_length_is_refused_and_hides_nothing(
    tmp_path: Path, framing: bytes
) -> None:
    """
    One 400 in an envelope, then the end of the connection.
    """
    sent = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\n" + framing + HIDDEN
    async with fuzzed_gateway(tmp_path) as gateway:
        peer = await Peer.connect(gateway.address.host, gateway.address.port)
        peer.writer.write(sent)

        answer = await peer.answer()

        assert (400, None) == (answer.status, complaint(answer))
        with pytest.raises(NoAnswer):
            await peer.answer()
        await peer.aclose()


async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    """
    What is well framed is no attack: each request of a pipeline has its answer.
    """
    async with fuzzed_gateway(tmp_path) as gateway:
        peer = await Peer.connect(gateway.address.host, gateway.address.port)
        peer.writer.write(HIDDEN + HIDDEN.replace(b"/livez", b"/nowhere") + HIDDEN)

        assert [200, 404, 200] == [(await peer.answer()).status for _ in range(3)]
        await peer.aclose()
