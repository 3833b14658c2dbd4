"""What the lean transport alone promises, against servers that behave badly."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.upstream.connection import Connection
from gateway.upstream.lean_transport import LeanTransport
from gateway.upstream.limits import Limits
from gateway.upstream.racing import first_connected
from gateway.upstream.sending import Incoming, Outgoing
from tests.servers.tls import Certificates
from tests.transport.conftest import OpenTransport, ask, serving
from tests.upstream import PATIENCE_S, chunk, whole

TEXT = b'{"text": "Hello."}'
SMUGGLED = whole(b"smuggled")
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE = b"x" * 20_000_000


@pytest.fixture
def kind() -> str:
    return "lean"


@pytest.fixture
def lean(open_transport: OpenTransport) -> LeanTransport:
    transport = open_transport()
    assert isinstance(transport, LeanTransport)
    return transport


async def first_of(response: httpx.Response) -> bytes:
    """The first piece of a body."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    return await anext(aiter(response.stream))


async def read_on(response: httpx.Response) -> None:
    """Read as fast as can be, to the end."""
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for _ in response.stream:
        pass  # what it is does not matter


async def test_stray_bytes_the_loop_has_not_seen_answer_nobody(
    lean: LeanTransport,
) -> None:
    """They lie in the socket when the next call takes the connection."""
    peers: list[asyncio.StreamWriter] = []

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        peers.append(writer)
        while await reader.readuntil(b"\r\n\r\n{}"):
            writer.write(whole(TEXT))

    async with serving(answer) as url:
        await ask(lean, url)
        peers[0].write(SMUGGLED)  # in the socket at once, before the loop looks again

        assert (await ask(lean, url)).body == TEXT


async def test_large_answer_over_tls_is_whole_though_its_server_just_closes(
    open_transport: OpenTransport, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Without a goodbye, while the reader is busy elsewhere."""
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    trust = ssl.create_default_context(cafile=str(certificates.ca_cert))
    body = b"x" * 3_000_000

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.transport.set_write_buffer_limits(0)
        writer.write(whole(body))
        await writer.drain()
        writer.transport.abort()

    async with serving(answer, ssl=certificates.server_context()) as url:
        found = await ask(open_transport(trust=trust), url)

    assert len(found.body) == len(body)


async def test_early_answer_is_heard_by_who_cannot_send_on(
    lean: LeanTransport,
) -> None:
    """Its connection is closed: what was not sent would open the next request."""
    has_left = asyncio.Event()

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await asyncio.sleep(0.2)  # reads nothing meanwhile
        while await reader.read(2**20):
            pass
        has_left.set()

    async with serving(refuse) as url, asyncio.timeout(PATIENCE_S):
        answer = await ask(lean, url, content=LARGE)

        assert (answer.status, lean.pool.idle, lean.pool.busy) == (413, 0, 0)
        await has_left.wait()


async def test_early_answer_to_a_body_in_parts_ends_its_connection(
    lean: LeanTransport,
) -> None:
    """The next call's request must not be read as the rest of this one's body."""
    requests = 0

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        nonlocal requests
        while await reader.readuntil(b"\r\n\r\n"):
            requests += 1
            writer.write(whole(TEXT))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"part"
            await asyncio.sleep(0)

    headers = {"content-length": "1000000000"}
    async with serving(refuse) as url:
        await ask(lean, url, content=endless(), headers=headers)
        assert (lean.pool.idle, lean.pool.busy) == (0, 0)
        await ask(lean, url)

    assert requests == 2


async def test_interim_answer_cuts_no_body_in_parts(lean: LeanTransport) -> None:
    """100 Continue asks for the rest, and is no refusal."""
    received = bytearray()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        received.extend(await reader.readuntil(b"0\r\n\r\n"))
        writer.write(whole(TEXT))
        await reader.read()

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(0.05)  # for the interim answer to be there
        yield b"three"

    async with serving(take) as url:
        await ask(lean, url, content=parts())

    assert received == b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"


async def test_end_of_the_upstream_is_heard_by_who_is_still_sending(
    lean: LeanTransport,
) -> None:
    """Not after the time-out of a write that nobody will read."""

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        await asyncio.Event().wait()

    async with serving(leave) as url:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            await ask(lean, url, content=LARGE, timeout={"write": 60})


async def test_total_deadline_holds_for_a_reader_that_never_waits(
    lean: LeanTransport,
) -> None:
    """An upstream that is always ahead must not hold its connection for ever."""

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(CHUNKED)
        while True:
            writer.write(chunk(b"x" * 50_000))
            await writer.drain()

    async with serving(pour) as url, asyncio.timeout(PATIENCE_S):
        ends_at_s = asyncio.get_running_loop().time() + 0.2
        limits = Limits(PATIENCE_S, PATIENCE_S, ends_at_s, ends_at_s)
        answer = await lean.send(Outgoing(url, True, (), b"{}"), limits)
        with pytest.raises(httpx.ReadTimeout):
            await read_to_end(answer)
        answer.close()


async def read_to_end(answer: Incoming) -> None:
    while await answer.next_chunk() is not None:
        pass


async def test_silence_within_an_answer_has_an_end(lean: LeanTransport) -> None:
    """And bytes that lie in the socket are none, however long the loop stood still."""
    release = asyncio.Event()

    async def hesitate(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(CHUNKED + chunk(b"a"))
        await release.wait()
        writer.write(chunk(b"b"))
        time.sleep(0.3)  # noqa: ASYNC251 - stands still over the moment it is due
        await asyncio.Event().wait()

    async with serving(hesitate) as url, asyncio.timeout(PATIENCE_S):
        ends_at_s = asyncio.get_running_loop().time() + PATIENCE_S
        limits = Limits(PATIENCE_S, 0.2, ends_at_s, ends_at_s)
        answer = await lean.send(Outgoing(url, True, (), b"{}"), limits)
        assert await answer.next_chunk() == b"a"
        asyncio.get_running_loop().call_later(0.1, release.set)
        assert await answer.next_chunk() == b"b"
        with pytest.raises(httpx.ReadTimeout):
            await answer.next_chunk()
        answer.close()


async def test_closed_pool_connects_nobody_who_waited(
    open_transport: OpenTransport,
) -> None:
    """A call that was queued at the end is told so."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.Event().wait()

    transport = open_transport(max_connections=1)
    async with serving(answer) as url:
        first = asyncio.ensure_future(ask(transport, url))
        await asyncio.sleep(0.05)  # until it holds the place
        queued = asyncio.ensure_future(ask(transport, url))
        await asyncio.sleep(0)
        await transport.aclose()
        first.cancel()

        with pytest.raises(httpx.ConnectError):
            await queued


async def test_address_that_leads_nowhere_does_not_hide_the_next() -> None:
    """A host with broken IPv6 is reached by its other address."""
    made = Connection(lambda lost: None)
    was_cancelled = False

    async def reach(address: str) -> Connection:
        nonlocal was_cancelled
        if address == "nowhere":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                was_cancelled = True
                raise
        return made

    async with asyncio.timeout(PATIENCE_S):
        assert await first_connected(reach, ["nowhere", "here"]) is made
    await asyncio.sleep(0)
    assert was_cancelled


async def test_host_that_cannot_be_reached_is_an_os_error() -> None:
    """By the last of its addresses."""

    async def reach(address: str) -> Connection:
        raise ConnectionRefusedError(address)

    with pytest.raises(ConnectionRefusedError, match="two"):
        await first_connected(reach, ["one", "two"])


async def test_nothing_before_the_head_takes_longer_than_the_head_may(
    open_transport: OpenTransport,
) -> None:
    """Not the wait for a place, nor an upstream that reads no request."""

    async def ignore(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        del reader, writer
        await asyncio.sleep(PATIENCE_S)

    transport = open_transport(max_connections=1)
    assert isinstance(transport, LeanTransport)
    async with serving(ignore) as url:
        large = Outgoing(url, is_stream=False, headers=(), body=LARGE)
        for _ in range(2):
            now_s = asyncio.get_running_loop().time()
            limits = Limits(PATIENCE_S, PATIENCE_S, now_s + 0.2, now_s + 0.2)
            sent = asyncio.create_task(transport.send(large, limits))
            queued = asyncio.create_task(transport.send(large, limits))
            async with asyncio.timeout(PATIENCE_S / 2):
                for call in (sent, queued):
                    with pytest.raises(httpx.ReadTimeout):
                        await call

    assert transport.pool.busy == 0
