"""The real command's standard output, whatever becomes of who reads it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import httpx
import msgspec
import pytest

from tests.serving import START_WITHIN_S, free_port
from tests.upstream import PATIENCE_S, ScriptedUpstream

# Their lines are twice what a pipe holds.
REQUESTS = 500


async def until_live(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_WITHIN_S):
        while True:
            try:
                await client.get("/livez")
            except httpx.ConnectError:
                await asyncio.sleep(0)
            else:
                return


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_log_that_nobody_reads_holds_up_nobody(
    upstream: ScriptedUpstream, workers: int
) -> None:
    """Answers, probes and an orderly end go on; nothing that is written is torn."""
    reader, writer = os.pipe()
    port = str(free_port())
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--port", port),
        *("--workers", str(workers)),
        env={
            **os.environ,
            "GATEWAY_UPSTREAM_URL": upstream.url,
            "GATEWAY_STORE_URL": "redis://127.0.0.1:1",
        },
        stdout=writer,
        start_new_session=True,
    )
    os.close(writer)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S
        ) as client:
            await until_live(client)
            for _ in range(REQUESTS):
                assert (await client.get("/livez")).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE_S * 2) == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    with os.fdopen(reader, "rb") as log:
        *lines, last = log.read().split(b"\n")
    assert len(lines) > 100
    for line in lines:
        msgspec.json.decode(line)
    print(f"{len(lines)} lines, and {len(last)} bytes of one more")
