"""Stopping: nothing new, what runs finishes, what does not is told so, exit 0."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, chat_body, events_of, write_policy
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
