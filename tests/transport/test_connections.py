"""Connections: used again, bounded, given back on every way out, never sent twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.transport.conftest import OpenTransport, ask, post, serving, until
from tests.upstream import ScriptedUpstream, chunk, whole

TEXT = b'{"text": "Hello."}'
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_connection_is_used_again(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """A handshake a call would double its latency."""
    for _ in range(5):
        await ask(transport, upstream.url)

    assert (len(upstream.requests), upstream.accepted_connections) == (5, 1)


async def test_idle_connections_are_closed_in_time(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """Before a load balancer gives them up without a word."""
    transport = open_transport(idle_s=0.05)
    await ask(transport, upstream.url)
    await asyncio.sleep(0.1)  # twice as long as it may be idle

    await ask(transport, upstream.url)

    assert upstream.accepted_connections == 2


async def test_connection_that_was_closed_while_idle_is_not_used(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """A restart of the upstream costs no call."""
    upstream.will(whole(TEXT), "close")
    await ask(transport, upstream.url)
    await until(lambda: upstream.open_connections == 0, "the upstream to close it")

    answer = await ask(transport, upstream.url)

    assert (answer.status, len(upstream.requests)) == (200, 2)


async def test_nothing_is_sent_twice_once_an_answer_began(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """On a connection that worked before, too: the call may have been paid for."""
    await ask(transport, upstream.url)
    upstream.will(b"H", "cut")

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await ask(transport, upstream.url)

    assert len(upstream.requests) == 2


@pytest.mark.parametrize("ending", ["cut", "close"])
async def test_call_that_was_worked_on_is_not_sent_twice(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream, ending: Any
) -> None:
    """An upstream that dies over a generation has been asked for it."""
    await ask(transport, upstream.url)
    worked = asyncio.Event()
    upstream.will(worked, ending)
    call = asyncio.ensure_future(ask(transport, upstream.url))
    await upstream.saw(2)
    await asyncio.sleep(0.1)  # far more than a round trip on loopback
    worked.set()

    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        await call

    assert len(upstream.requests) == 2


async def test_leaving_before_the_answer_tells_the_upstream(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """At once, and the place is free for the next call."""
    transport = open_transport(max_connections=1)
    upstream.will("hang")
    call = asyncio.ensure_future(ask(transport, upstream.url))
    await upstream.saw()

    call.cancel()

    await upstream.saw_disconnect()
    assert (await ask(transport, upstream.url)).status == 200


async def test_leaving_within_the_answer_tells_the_upstream(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """Closing an answer that is not at its end closes its connection."""
    transport = open_transport(max_connections=1)
    upstream.will(CHUNKED, chunk(b"Hel"), "hang")
    response = await transport.handle_async_request(post(upstream.url))
    assert isinstance(response.stream, httpx.AsyncByteStream)
    stream = aiter(response.stream)
    assert await anext(stream) == b"Hel"

    await response.aclose()
    await response.aclose()

    await upstream.saw_disconnect()
    assert (await ask(transport, upstream.url)).status == 200


async def test_calls_beyond_the_bound_wait_in_their_order(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """And each of them gets its connection."""
    transport = open_transport(max_connections=2)
    release = asyncio.Event()
    for _ in range(2):
        upstream.will(release, whole(TEXT))
    calls = []
    for number in range(6):
        calls.append(
            asyncio.ensure_future(
                ask(transport, upstream.url, headers={"x-number": str(number)})
            )
        )
        await asyncio.sleep(0)
    await upstream.saw(2)

    release.set()
    await asyncio.gather(*calls)

    seen = [int(request.headers["x-number"]) for request in upstream.requests]
    assert sorted(seen[:2]) == [0, 1]
    assert seen[2:] == [2, 3, 4, 5]
    assert upstream.accepted_connections <= 2


async def test_waiting_for_a_connection_has_an_end(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """Named for what it is, since nothing was sent."""
    transport = open_transport(max_connections=1)
    upstream.will("hang")
    first = asyncio.ensure_future(ask(transport, upstream.url))
    await upstream.saw()

    with pytest.raises(httpx.PoolTimeout):
        await ask(transport, upstream.url, timeout={"pool": 0.05})
    first.cancel()
    await upstream.saw_disconnect()

    assert (await ask(transport, upstream.url)).status == 200


async def test_no_place_is_lost_however_calls_end(
    open_transport: OpenTransport, upstream: ScriptedUpstream
) -> None:
    """Cancelled in the queue, while connecting, while sending, while reading."""
    transport = open_transport(max_connections=3)
    dice = random.Random(11)

    async def leave_early() -> None:
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(dice.random() * 0.02):
                await ask(transport, upstream.url, timeout={"pool": 0.01})

    for _ in range(60):
        await asyncio.gather(*(leave_early() for _ in range(8)))

    answers = await asyncio.gather(*(ask(transport, upstream.url) for _ in range(9)))
    assert [200] * 9 == [answer.status for answer in answers]


async def test_no_answer_in_time_is_a_read_timeout(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream
) -> None:
    """Before its head and within its body, where the caller asked for it."""
    upstream.will("hang")
    with pytest.raises(httpx.ReadTimeout):
        await ask(transport, upstream.url, timeout={"read": 0.05})

    upstream.will(CHUNKED, chunk(b"Hel"), "hang")
    with pytest.raises(httpx.ReadTimeout):
        await ask(transport, upstream.url, timeout={"read": 0.05})

    await upstream.saw_disconnect(2)


async def test_upstream_that_reads_nothing_is_a_write_timeout(
    transport: httpx.AsyncBaseTransport,
) -> None:
    """A body larger than every buffer on the way does not wait for ever."""

    async def sit(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Its limit of 64 KiB is reached at once, and nobody reads.
        await asyncio.Event().wait()

    body = b"x" * 50_000_000
    async with serving(sit) as url:
        with pytest.raises(httpx.WriteTimeout):
            await ask(transport, url, content=body, timeout={"write": 0.2})


async def test_refused_connection_is_told_from_a_lost_one(
    transport: httpx.AsyncBaseTransport,
) -> None:
    """Nothing was sent, so the call may be made again."""
    with pytest.raises(httpx.ConnectError):
        await ask(transport, "http://127.0.0.1:9/v1")
    with pytest.raises(httpx.ConnectError):
        await ask(transport, "http://nowhere.invalid/v1")


async def test_early_refusal_of_a_large_body_is_heard(
    transport: httpx.AsyncBaseTransport,
) -> None:
    """A 413 comes before the last byte was sent, and is the answer."""

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        while await reader.read(65_536):
            pass

    async with serving(refuse) as url:
        answer = await ask(transport, url, content=b"x" * 20_000_000)

    assert answer.status == 413


async def test_reader_that_is_slow_makes_the_upstream_wait(
    transport: httpx.AsyncBaseTransport,
) -> None:
    """What is not read yet stays where it comes from, not in this process."""
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"x" * 50_000)
            await writer.drain()
            sent += 50_000

    async with serving(pour) as url:
        response = await transport.handle_async_request(post(url))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.1)  # until the sockets' own buffers are full
        await response.aclose()

    assert sent < 20_000_000


async def test_body_in_parts_is_sent_as_its_headers_say(
    transport: httpx.AsyncBaseTransport,
) -> None:
    """In chunks where no length was told."""
    received = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.extend(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(whole(TEXT))
        await reader.read()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"three"

    async with serving(take) as url:
        answer = await ask(transport, url, content=parts())

    assert answer.body == TEXT
    assert received.endswith(b"\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n")


@pytest.mark.parametrize("value", [b"a\r\nx: b", b"a\nb", b"a\rb", b"a\0b"])
async def test_header_cannot_break_out_of_its_line(
    transport: httpx.AsyncBaseTransport, upstream: ScriptedUpstream, value: bytes
) -> None:
    """Nothing of such a request is sent."""
    with pytest.raises(httpx.LocalProtocolError):
        await ask(transport, upstream.url, headers=[(b"x-a", value)])

    assert upstream.requests == []
