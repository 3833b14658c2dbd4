"""What an answer may look like on the wire, and what it is taken for."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.transport.conftest import OpenTransport, ask, post
from tests.upstream import ScriptedUpstream, Step, chunk, whole

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
TEXT = b'{"text": "Hello."}'

ANSWERS = [
    pytest.param((whole(TEXT),), True, id="content-length"),
    pytest.param((CHUNKED, chunk(TEXT), b"0\r\n\r\n"), True, id="chunked"),
    pytest.param(
        (CHUNKED, chunk(TEXT[:5]), chunk(TEXT[5:]), b"0\r\nx: y\r\n\r\n"),
        True,
        id="trailers",
    ),
    pytest.param(
        (b"HTTP/1.1 100 Continue\r\n\r\n", whole(TEXT)), True, id="100 before it"
    ),
    pytest.param(
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", whole(TEXT)),
        True,
        id="103 before it",
    ),
    pytest.param((OK + b"\r\n" + TEXT, "close"), False, id="until the end"),
    pytest.param(
        (b"HTTP/1.0 200 OK\r\ncontent-length: 18\r\n\r\n" + TEXT,), False, id="http/1.0"
    ),
    pytest.param(
        (whole(TEXT, headers={"connection": "close"}), "close"), False, id="closing"
    ),
]


@pytest.mark.parametrize(("script", "is_kept"), ANSWERS)
async def test_answer_is_read_to_its_end(
    transport: httpx.AsyncBaseTransport,
    upstream: ScriptedUpstream,
    script: tuple[Step, ...],
    is_kept: bool,
) -> None:
    """Whatever marks its end; and the connection is used again where it may be."""
    upstream.will(*script)

    answer = await ask(transport, upstream.url)

    assert (answer.status, answer.body) == (200, TEXT)
    await ask(transport, upstream.url)
    assert upstream.accepted_connections == (1 if is_kept else 2)


@pytest.mark.parametrize(("script", "is_kept"), ANSWERS)
async def test_answer_is_the_same_at_every_split(
    transport: httpx.AsyncBaseTransport,
    upstream: ScriptedUpstream,
    script: tuple[Step, ...],
    is_kept: bool,
) -> None:
    """A byte at a time is the worst any network does."""
    steps: list[Step] = []
    for step in script:
        if isinstance(step, bytes):
            steps += [bytes([byte]) for byte in step]
        else:
            steps.append(step)
    upstream.will(*steps)

    answer = await ask(transport, upstream.url)

    assert (answer.status, answer.body) == (200, TEXT)


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_none(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream, status: int
) -> None:
    """Nor does the connection wait for one."""
    upstream.will(f"HTTP/1.1 {status} None\r\n\r\n".encode())

    answer = await ask(transport, upstream.url)

    assert (answer.status, answer.body) == (status, b"")
    assert (await ask(transport, upstream.url)).status == 200


async def test_answer_to_head_has_no_body(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """Whatever length it announces."""
    upstream.will(OK + b"content-length: 1000\r\n\r\n")

    answer = await ask(transport, upstream.url, method="HEAD", content=None)

    assert (answer.status, answer.body) == (200, b"")
    assert (await ask(transport, upstream.url)).status == 200


STAGES = [
    pytest.param((), id="before the status"),
    pytest.param((b"HTTP/1.1 2",), id="in the status"),
    pytest.param((OK + b"content-le",), id="in a header"),
    pytest.param((OK + b"content-length: 9\r\n\r\n",), id="before the body"),
    pytest.param((OK + b"content-length: 9\r\n\r\n{",), id="in the body"),
    pytest.param((CHUNKED,), id="before a chunk"),
    pytest.param((CHUNKED + b"1",), id="in a chunk's size"),
    pytest.param((CHUNKED + b"9\r\n{",), id="in a chunk"),
    pytest.param((CHUNKED + chunk(b"{}"),), id="between chunks"),
    pytest.param((CHUNKED + chunk(b"{}") + b"0\r\n",), id="before the last line"),
]


@pytest.mark.parametrize("script", STAGES)
@pytest.mark.parametrize("ending", ["cut", "close"])
async def test_half_an_answer_is_an_error(
    transport: httpx.AsyncBaseTransport,
    upstream: ScriptedUpstream,
    script: tuple[Step, ...],
    ending: Step,
) -> None:
    """At whichever stage it ends, reset or closed, it is not taken for a whole one."""
    upstream.will(*script, ending)

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await ask(transport, upstream.url)

    assert len(upstream.requests) == 1
    assert (await ask(transport, upstream.url)).status == 200


GARBAGE = [
    pytest.param(b"garbage\r\n\r\n", id="no http"),
    pytest.param(b"\x16\x03\x01\x02\x00", id="tls"),
    pytest.param(b"HTTP/1.1 abc OK\r\n\r\n", id="no status"),
    pytest.param(OK + b"content-length: -3\r\n\r\nabc", id="negative length"),
    pytest.param(OK + b"content-length: +3\r\n\r\nabc", id="signed length"),
    pytest.param(OK + b"content-length: 0x3\r\n\r\nabc", id="hex length"),
    pytest.param(
        OK + b"content-length: 3\r\ncontent-length: 5\r\n\r\nabc", id="lengths"
    ),
    pytest.param(OK + b"content-length : 3\r\n\r\nabc", id="space before the colon"),
    pytest.param(OK + b"bad header\r\n\r\n", id="no colon"),
    pytest.param(OK + b"x: a\0b\r\n\r\n", id="nul"),
    pytest.param(CHUNKED + b"xyz\r\nabc\r\n0\r\n\r\n", id="no chunk size"),
    pytest.param(CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", id="negative chunk"),
    pytest.param(CHUNKED + b"fffffffffffffffff\r\nabc", id="endless chunk"),
    pytest.param(CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", id="chunk without its end"),
    pytest.param(
        OK + b"transfer-encoding: gzip, chunked, identity\r\n\r\n", id="encodings"
    ),
    pytest.param(
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n??",
        id="another protocol",
    ),
    pytest.param(OK + b"x: " + b"a" * 200_000 + b"\r\n\r\n", id="a header too large"),
    pytest.param(OK + b"x: a\r\n" * 50_000 + b"\r\n", id="too many headers"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000, id="no final answer"),
]


@pytest.mark.parametrize("sent", GARBAGE)
async def test_what_is_no_answer_is_an_error(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream, sent: bytes
) -> None:
    """Bounded, prompt, and without harm to the next call."""
    upstream.will(sent, "close")

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await ask(transport, upstream.url)

    assert (await ask(transport, upstream.url)).status == 200


@pytest.fixture
def swaps_answers(kind: str, request: pytest.FixtureRequest) -> None:
    """httpcore 1.0.9 keeps what is behind an answer, and takes it for the next one."""
    if kind == "stock":
        request.applymarker(pytest.mark.xfail(reason="httpcore swaps answers"))


SMUGGLED = whole(b"smuggled")
SHAPES = [
    pytest.param(whole(TEXT) + SMUGGLED, id="two in one packet"),
    pytest.param(
        OK
        + b"content-length: 18\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunk(TEXT)
        + b"0\r\n\r\n"
        + SMUGGLED,
        id="length and chunks",
    ),
    pytest.param(
        OK + b"content-length: 18\r\ncontent-length: 18\r\n\r\n" + TEXT + SMUGGLED,
        id="length twice",
    ),
    pytest.param(
        OK + b"content-length: 18, 18\r\n\r\n" + TEXT + SMUGGLED, id="length as a list"
    ),
    pytest.param(
        OK
        + b"x: y\r\n content-length: 0\r\ncontent-length: 18\r\n\r\n"
        + TEXT
        + SMUGGLED,
        id="folded header",
    ),
    pytest.param(
        b"HTTP/1.1 204 None\r\ncontent-length: 18\r\n\r\n" + SMUGGLED, id="204 and more"
    ),
    pytest.param(
        b"HTTP/1.1 200 OK\ncontent-length: 18\n\n" + TEXT + SMUGGLED, id="bare lf"
    ),
]


@pytest.mark.parametrize("sent", SHAPES)
async def test_no_call_gets_an_answer_that_came_before_it_was_sent(
    transport: httpx.AsyncBaseTransport,
    upstream: ScriptedUpstream,
    sent: bytes,
    swaps_answers: None,
) -> None:
    """Two readers that disagree on an answer's end are how answers are swapped."""
    upstream.will(sent)
    try:
        first = (await ask(transport, upstream.url)).body
    except (httpx.ReadError, httpx.RemoteProtocolError):
        first = b""

    second = await ask(transport, upstream.url)

    assert first in {TEXT, b""}
    assert b"Hello there." in second.body


async def test_bytes_on_an_idle_connection_are_nobodys_answer(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """A late 408, or worse, must not answer the next call."""
    late = asyncio.Event()
    upstream.will(whole(TEXT), late, SMUGGLED)
    await ask(transport, upstream.url)
    late.set()
    await asyncio.sleep(0.05)  # for the bytes to be there before the call

    assert b"Hello there." in (await ask(transport, upstream.url)).body


async def test_headers_come_as_they_were_sent(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """Repeated ones each, in order, and bytes outside of ASCII untouched."""
    upstream.will(OK + b"x-a: 1\r\nX-A: 2\r\nx-b: \xff\r\ncontent-length: 0\r\n\r\n")

    answer = await ask(transport, upstream.url)

    raw = [pair for pair in answer.headers.raw if pair[0].lower().startswith(b"x-")]
    assert [(name.lower(), value) for name, value in raw] == [
        (b"x-a", b"1"),
        (b"x-a", b"2"),
        (b"x-b", b"\xff"),
    ]


async def test_response_says_which_http_it_was(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """As httpx's extensions say it."""
    transport = open_transport()
    upstream.will(b"HTTP/1.1 200 Fine By Me\r\ncontent-length: 0\r\n\r\n")

    response = await transport.handle_async_request(post(upstream.url))
    await response.aclose()

    assert response.extensions["http_version"] == b"HTTP/1.1"
    assert response.extensions["reason_phrase"] == b"Fine By Me"
