"""Stopping: nothing new, what runs finishes, what does not is told so, exit 0."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import (
    MODEL,
    GatewayUnderTest,
    chat_body,
    events_of,
    until,
    write_policy,
)
from tests.servers.process import ReservedPort
from tests.upstream import LAST_CHUNK, PATIENCE_S, STREAM_HEAD, ScriptedUpstream, frame


async def test_draining_lets_a_stream_finish(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A deployment cuts nobody off in mid-sentence."""
    gateway = await start_gateway(drain_timeout_s=PATIENCE_S)
    go_on = asyncio.Event()
    end = frame({"text": "lo"}) + frame("[DONE]") + LAST_CHUNK
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}), go_on, end)

    async with gateway.stream_chat() as stream:
        await stream.text_until("Hel")
        draining = asyncio.ensure_future(gateway.server.drain())
        await asyncio.sleep(0)
        assert gateway.gateway.readiness()["status"] == "draining"
        go_on.set()
        await stream.text_until("lo")
        while (event := await stream.next_event()) != "[DONE]":
            assert "error" not in event
    await asyncio.wait_for(draining, PATIENCE_S)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_what_outlives_the_deadline_is_told_so(
    start_gateway: StartGateway, upstream: ScriptedUpstream, *, stream: bool
) -> None:
    """An honest, retryable end; the upstream is told, the lease is free."""
    gateway = await start_gateway(drain_timeout_s=0.2)
    if stream:
        upstream.will_stream({"text": "Hel"}, then="hang")
    else:
        upstream.will("hang")

    answer = asyncio.ensure_future(gateway.chat(stream=stream))
    await upstream.saw()
    if stream:
        await gateway.until_metric(
            f'time_to_first_token_seconds_count{{model="{MODEL}"}} 1.0'
        )
    await asyncio.wait_for(gateway.server.drain(), PATIENCE_S)

    response = await answer
    error = events_of(response)[-1]["error"] if stream else response.json()["error"]
    assert response.status_code == (200 if stream else 503)
    assert error["code"] == "shutting_down"
    assert gateway.held() == 0
    await upstream.saw_disconnect()


async def test_while_notice_is_given_everything_is_served(
    start_gateway: StartGateway,
) -> None:
    """Who has not heard yet loses nothing, and every answer says to go elsewhere."""
    gateway = await start_gateway(drain_notice_s=0.3, drain_timeout_s=PATIENCE_S)

    draining = asyncio.ensure_future(gateway.server.drain())
    await asyncio.sleep(0)
    ready, answer = await gateway.get("/readyz"), await gateway.chat()

    assert (503, "draining") == (ready.status_code, ready.json()["status"])
    assert (200, "close") == (answer.status_code, answer.headers["connection"])
    await asyncio.wait_for(draining, PATIENCE_S)
    with pytest.raises(httpx.ConnectError):
        await gateway.get("/readyz")


async def test_a_kept_connection_may_ask_once_more_during_the_notice(
    start_gateway: StartGateway,
) -> None:
    """It is not closed under a request that may be on its way."""
    gateway = await start_gateway(drain_notice_s=0.3, drain_timeout_s=PATIENCE_S)
    async with kept_connection(gateway) as (reader, writer):
        draining = asyncio.ensure_future(gateway.server.drain())
        await asyncio.sleep(0)
        writer.write(gateway.raw_chat())

        assert b"200 OK" in await asyncio.wait_for(reader.readline(), PATIENCE_S)
        assert b"connection: close" in await asyncio.wait_for(reader.read(), PATIENCE_S)
        await asyncio.wait_for(draining, PATIENCE_S)


async def test_an_idle_connection_is_closed_when_nothing_more_is_taken(
    start_gateway: StartGateway,
) -> None:
    """A client that keeps its connection does not keep the process."""
    gateway = await start_gateway(drain_timeout_s=PATIENCE_S)
    async with kept_connection(gateway) as (reader, _):
        await asyncio.wait_for(gateway.server.drain(), PATIENCE_S / 2)

        assert b"" == await asyncio.wait_for(reader.read(), PATIENCE_S)


async def test_who_probes_and_never_asks_keeps_nothing_waiting(
    start_gateway: StartGateway,
) -> None:
    """Checkers that only connect come to the ops port all through a drain."""
    port = ReservedPort()
    port.release()
    gateway = await start_gateway(ops_port=port.number, drain_timeout_s=60)
    async with asyncio.timeout(PATIENCE_S):
        draining = asyncio.ensure_future(gateway.server.drain())
        silent: deque[asyncio.StreamWriter] = deque()
        while not draining.done():
            with contextlib.suppress(ConnectionError):
                _, writer = await asyncio.open_connection("127.0.0.1", port.number)
                silent.append(writer)
            if len(silent) > 20:
                silent.popleft().close()
    for writer in silent:
        writer.close()

    assert silent


@asynccontextmanager
async def kept_connection(
    gateway: GatewayUnderTest,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """One that has had an answer and asks for none."""
    port = urlsplit(gateway.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"HEAD /livez HTTP/1.1\r\nhost: gw\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        yield reader, writer
    finally:
        writer.close()


async def test_who_is_queued_when_the_listener_closes_is_answered(
    start_gateway: StartGateway,
) -> None:
    """The kernel has told them that they are connected."""
    gateway = await start_gateway(drain_timeout_s=PATIENCE_S)
    with contextlib.ExitStack() as stack:
        # Without a turn of the event loop, so nobody accepts them before the drain.
        clients = [stack.enter_context(connected(gateway)) for _ in range(20)]
        for client in clients[:10]:
            client.sendall(gateway.raw_chat())
        draining = asyncio.ensure_future(gateway.server.drain())
        await until(lambda: gateway.gateway.is_draining, "the drain")
        await asyncio.to_thread(send_to_all, clients[10:], gateway.raw_chat())

        answers = [await asyncio.to_thread(everything, client) for client in clients]
        await asyncio.wait_for(draining, PATIENCE_S)

    assert [b"HTTP/1.1 200 OK"] * 20 == [answer[:15] for answer in answers]


async def test_half_a_request_may_still_arrive(start_gateway: StartGateway) -> None:
    """Its client began before anybody said that it should not."""
    gateway = await start_gateway(drain_timeout_s=PATIENCE_S)
    request = gateway.raw_chat()
    with connected(gateway) as client:
        client.sendall(request[:40])
        await until(
            lambda: any(c.is_being_asked() for c in gateway.server.connections),
            "half a request",
        )
        draining = asyncio.ensure_future(gateway.server.drain())
        await until(lambda: not gateway.server.is_accepting, "the listener to close")
        client.sendall(request[40:])

        answer = await asyncio.to_thread(everything, client)
        await asyncio.wait_for(draining, PATIENCE_S)

    assert answer.startswith(b"HTTP/1.1 200 OK")


def connected(gateway: GatewayUnderTest) -> socket.socket:
    """A blocking connection."""
    url = urlsplit(gateway.url)
    assert url.port is not None
    return socket.create_connection(("127.0.0.1", url.port), timeout=PATIENCE_S)


def send_to_all(clients: list[socket.socket], data: bytes) -> None:
    for client in clients:
        client.sendall(data)


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := client.recv(65_536):
        parts.append(part)
    return b"".join(parts)


# Of a process: importing everything takes seconds on a busy machine.
START_WITHIN_S: Final = 30.0


@asynccontextmanager
async def serving(
    environment: dict[str, str], uds: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The real command, ended with the block whatever becomes of the test."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--uds", str(uds)),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def line_with(
    output: asyncio.StreamReader, text: bytes, within_s: float = PATIENCE_S
) -> None:
    """Read lines until one has this text."""
    async with asyncio.timeout(within_s):
        while text not in (line := await output.readline()):
            assert line, f"the output ended without {text!r}"


async def stream_through_sigterm(
    process: asyncio.subprocess.Process, uds: Path, key: str, go_on: asyncio.Event
) -> list[str]:
    """The lines of a stream after the signal, which comes in the middle of it."""
    assert process.stdout is not None
    transport = httpx.AsyncHTTPTransport(uds=str(uds))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://gw") as client,
        client.stream(
            "POST",
            "/v1/chat/completions",
            json=chat_body(stream=True),
            headers={"authorization": f"Bearer {key}"},
        ) as response,
    ):
        lines = response.aiter_lines()
        while '"Hel"' not in await anext(lines):
            pass
        process.send_signal(signal.SIGTERM)
        await line_with(process.stdout, b'"stopping"')
        go_on.set()
        return [line async for line in lines]


async def test_sigterm_finishes_streams_and_exits_0(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """The real command, the real signal."""
    keys, plans_dir, keys_file = write_policy(tmp_path, {"open": "plan: open\n"})
    environment = {
        "GATEWAY_UPSTREAM_URL": upstream.url,
        "GATEWAY_PLANS_DIR": str(plans_dir),
        "GATEWAY_KEYS_FILE": str(keys_file),
    }
    go_on = asyncio.Event()
    end = frame({"text": "lo"}) + frame("[DONE]") + LAST_CHUNK
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}), go_on, end)
    uds = tmp_path / "gw.sock"
    async with serving(environment, uds) as process:
        assert process.stdout is not None
        await line_with(process.stdout, b'"serving"', START_WITHIN_S)
        rest = await stream_through_sigterm(process, uds, keys["open"], go_on)
        output = await asyncio.wait_for(process.stdout.read(), PATIENCE_S)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0

    assert "data: [DONE]" in rest
    assert b'"outcome":"ok"' in output
    assert MODEL.encode() in output
