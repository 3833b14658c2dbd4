"""Connections: what strangers may do with one, and what it may cost."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body
from tests.upstream import PATIENCE_S, ScriptedUpstream


async def test_a_request_that_asks_for_h2c_is_served_with_its_body(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """`curl --http2` and Java's client ask on every cleartext request."""
    upgrade = (
        b"connection: Upgrade, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    )
    request = gateway.raw_chat().replace(b"host: x\r\n", b"host: x\r\n" + upgrade)
    # The upgrade's own `connection: close` is dropped with it, so half-close ends this.
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 200 ")
    assert upstream.last.json["prompt"] == "Hello"


@pytest.mark.parametrize("target", [b"http://x", b"http://x?a=1"])
async def test_an_absolute_target_without_a_path_is_the_root(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture, target: bytes
) -> None:
    """RFC 9112, 3.2.2: proxies send it so."""
    close = b"host: x\r\nconnection: close\r\n\r\n"
    answer = await gateway.send(b"GET " + target + b" HTTP/1.1\r\n" + close)

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"There is no route /;" in answer


@pytest.mark.parametrize("target", [b"//[", b"/\xc3\xa4", b"*"])
async def test_a_target_that_is_none_fills_no_log(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture, target: bytes
) -> None:
    """A stranger sends it by the million."""
    close = b"host: x\r\nconnection: close\r\n\r\n"
    await gateway.send(b"GET " + target + b" HTTP/1.1\r\n" + close)

    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_client_that_pipelines_and_leaves_is_noticed(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Not only the newest request of a connection hears of its end."""
    upstream.will("hang")
    _, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(gateway.raw_chat() + b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    await upstream.saw()
    writer.transport.abort()

    await upstream.saw_disconnect()
    await gateway.until_free()


async def test_a_byte_behind_a_running_stream_does_not_cut_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The clock for headers runs while no request does."""
    gateway = await start_gateway(http_header_timeout_s=0.1)
    release = asyncio.Event()
    upstream.will(
        release, b'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"text":"Hi"}'
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(gateway.raw_chat() + b"G")
    await upstream.saw()
    await asyncio.sleep(0.3)  # thrice the header time-out, which must not strike
    release.set()

    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()


UNREAD = [
    pytest.param(
        b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n", id="get"
    ),
    pytest.param(b"POST /no HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n", id="404"),
    pytest.param(b"GET /livez HTTP/1.1\r\nhost: x\r\n", id="stray line break"),
]


@pytest.mark.parametrize("head", UNREAD)
async def test_late_bytes_that_nobody_reads_do_not_hold_a_connection(
    start_gateway: StartGateway, head: bytes
) -> None:
    """No key is needed to open a connection, so none is kept for nothing."""
    gateway = await start_gateway(http_header_timeout_s=0.3, http_keepalive_timeout_s=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(head + b"\r\n")
    await reader.readuntil(b"}")

    writer.write(b"\r\n")  # after the answer, when the keep-alive clock is running

    await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()


async def test_a_client_that_pipelines_without_end_is_cut_off(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A queue of tiny requests behind a slow answer is memory that a stranger fills."""
    upstream.will("hang")

    _, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(gateway.raw_chat())
    await upstream.saw()

    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" * 100)

    await upstream.saw_disconnect()
    writer.close()


async def test_an_unread_answer_on_a_closing_connection_is_given_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Closing waits for the reader; the gateway does not wait for ever with it."""
    gateway = await start_gateway(http_write_timeout_s=0.2)
    answer = {"text": "x" * 20_000_000}
    upstream.will_answer(answer)
    request = gateway.raw_chat().replace(b"host: x", b"host: x\r\nconnection: close")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.address.port, limit=1024
    )
    writer.write(request)
    await gateway.until_metric(
        'requests_total{outcome="ok",route="/v1/chat/completions"}'
    )
    await asyncio.sleep(0.5)  # more than twice the time a reader has

    received = 0
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            received += len(piece)

    assert received < len(answer["text"])
    writer.close()


async def test_trailers_without_an_end_are_cut_off(gateway: GatewayUnderTest) -> None:
    """They are bounded as headers are: nothing else bounds them."""
    head = b"GET /livez HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"

    with suppress(ConnectionError):
        await gateway.send(head + b"0\r\nx: ", *[b"a" * 65_536] * 100)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"POST /v1/chat/completions HTT", id="headers"),
        pytest.param(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            b"content-length: 9\r\n\r\n{",
            id="body",
        ),
    ],
)
async def test_half_a_request_and_a_closed_side_is_a_400(
    gateway: GatewayUnderTest, sent: bytes
) -> None:
    """A half-closed socket still gets the envelope for what it broke off."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(sent)
    writer.write_eof()
    answer = await reader.read()
    writer.close()

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 "))
    assert json.loads(body)["error"]["message"]


async def test_an_absurd_content_length_is_no_fault_of_ours(
    gateway: GatewayUnderTest,
) -> None:
    """A number of 5,000 digits is a number like any other."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"

    answer = await gateway.send(
        head + b"content-length: " + b"0" * 5000 + b"2\r\n\r\n{}"
    )

    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_a_full_replica_says_so_and_stays_alive(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Load must never look like death: a probe would restart every pod under it."""
    gateway = await start_gateway(http_max_in_flight=1)
    upstream.will("hang")
    first = asyncio.ensure_future(gateway.chat())
    await upstream.saw()

    second = await gateway.chat()

    assert second.status_code == 503
    assert second.json()["error"]["code"] == "server_is_overloaded"
    assert second.headers["retry-after"] == "1"
    for path in ("/livez", "/readyz", "/metrics"):
        assert (await gateway.client.get(path)).status_code == 200
    first.cancel()
    await upstream.saw_disconnect()


async def test_upstream_places_survive_clients_that_leave_in_the_queue(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """However calls end while they wait for a connection, no place is lost."""
    gateway = await start_gateway(
        upstream_max_connections=3, upstream_connect_timeout_s=0.05
    )
    dice = random.Random(7)

    async def leave_early() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(dice.random() * 0.03):
                await gateway.chat()

    for _ in range(40):
        await asyncio.gather(*(leave_early() for _ in range(8)))
    await gateway.until_free()

    assert [200] * 3 == [(await gateway.chat()).status_code for _ in range(3)]


async def test_streams_give_their_upstream_connection_back(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A handshake for every stream would be felt in every first token."""
    for _ in range(5):
        upstream.will_stream({"text": "Hi"})
        await gateway.chat(stream=True)

    assert upstream.accepted_connections == 1


async def test_a_slow_reader_of_a_whole_answer_is_cut_off(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """An answer behind one that nobody reads holds no lease for longer than allowed."""
    gateway = await start_gateway(http_write_timeout_s=0.3)
    upstream.will_answer({"text": "x" * 8_000_000})
    upstream.will_stream({"text": "Hi"}, then="hang")
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.address.port, limit=1024
    )
    writer.write(gateway.raw_chat() + gateway.raw_chat(stream=True))

    await upstream.saw(2)
    await upstream.saw_disconnect()
    await gateway.until_free()
    received = 0
    with suppress(ConnectionError):
        while piece := await reader.read(65_536):
            received += len(piece)
    assert received < 8_000_000
    writer.close()


async def test_trace_context_reaches_the_upstream(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """One trace from the application to LLMTune."""
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "a=b",
        "baggage": "k=v",
    }

    await gateway.client.post(
        "/v1/chat/completions", json=chat_body(), headers=gateway.auth() | trace
    )

    assert trace.items() <= upstream.last.headers.items()


async def test_many_upgrades_on_one_connection_end_it_quietly(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """Each asks to be parsed again; thousands are cut off, not recursed into."""
    upgrade = b"connection: Upgrade\r\nupgrade: h2c\r\n\r\n"

    with suppress(ConnectionError):
        await gateway.send((b"GET /livez HTTP/1.1\r\nhost: x\r\n" + upgrade) * 3000)

    assert "Traceback" not in caplog.text


async def test_a_key_in_a_trailer_opens_nothing(gateway: GatewayUnderTest) -> None:
    """What a proxy in front filters from headers must not come in behind the body."""
    chunked = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    )
    trailer = f"authorization: Bearer {gateway.key()}\r\n\r\n".encode()

    assert (await gateway.send(chunked + trailer)).startswith(b"HTTP/1.1 401 ")


async def test_a_head_behind_another_request_is_bounded_too(
    start_gateway: StartGateway,
) -> None:
    """It begins in one packet with the end of the first, and ends in the next."""
    gateway = await start_gateway(http_max_header_bytes=4096)
    padding = b"x-padding: %b\r\n" % (b"x" * 60_000)
    first = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
    second = b"GET /livez HTTP/1.1\r\nhost: x\r\n"

    answers = await gateway.send(first + second + padding, b"\r\n")

    assert b"HTTP/1.1 431 " in answers
    assert answers.count(b"HTTP/1.1 200 ") <= 1


async def test_line_breaks_keep_no_connection_open(start_gateway: StartGateway) -> None:
    """Each would start the clock anew, for ever."""
    gateway = await start_gateway(http_header_timeout_s=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)

    async def go_on() -> None:
        while True:
            writer.write(b"\r\n")
            await asyncio.sleep(0.05)

    breaking = asyncio.create_task(go_on())
    async with asyncio.timeout(PATIENCE_S):
        with suppress(ConnectionError):
            await reader.read()

    breaking.cancel()
    writer.close()


async def test_an_unread_body_that_breaks_off_gets_no_second_answer(
    gateway: GatewayUnderTest,
) -> None:
    """Whoever reuses the connection would take it for the next one's."""
    request = b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nabc"
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(request)
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.readuntil(b"}")
        writer.write_eof()
        rest = await reader.read()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert rest == b""
    writer.close()
