"""The trial, with everything as it is rendered but addresses: it answers."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import httpx

from tests.helm.rendering import NAME, preset
from tests.helm.test_hook import run_hook
from tests.servers.redis_server import RedisServer
from tests.serving import free_port

# A loaded machine's; an idle one starts both in a second.
READY_WITHIN_S: Final = 20.0
LOOK_EVERY_S: Final = 0.05


async def test_helms_own_test_passes_on_a_trial(redis_server: RedisServer) -> None:
    """Without an account: any key is let in, and the simulator answers."""
    release = preset("trial-values.yaml")
    simulator, api, ops = free_port(), free_port(), free_port()
    told = release.variables | {
        "GATEWAY_STORE_URL": redis_server.url,
        "GATEWAY_UPSTREAM_URL": f"http://127.0.0.1:{simulator}/v1",
        "GATEWAY_OPS_PORT": str(ops),
    }

    async with AsyncExitStack() as running:
        for name, port, variables in (
            (f"{NAME}-simulator", simulator, {}),
            (NAME, api, told),
        ):
            pod = release.of("Deployment", name)["spec"]["template"]["spec"]
            await running.enter_async_context(
                command(pod["containers"][0]["args"], port, variables)
            )
        await until_ready(f"http://127.0.0.1:{ops}/readyz")
        code, output = await run_hook(f"http://127.0.0.1:{api}", "helm-test")

    assert 0 == code, output
    assert output.startswith("llmtune-mini: ")


@asynccontextmanager
async def command(
    arguments: list[str], port: int, variables: Mapping[str, str]
) -> AsyncIterator[None]:
    """The image's entry point with a container's arguments, on another port."""
    own = [each for each in arguments if not each.startswith(("--host=", "--port="))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *own, "--host=127.0.0.1", f"--port={port}"),
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def until_ready(url: str) -> None:
    """As the kubelet's probe finds it."""
    async with asyncio.timeout(READY_WITHIN_S), httpx.AsyncClient() as client:
        while True:
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                pass  # it does not listen yet
            await asyncio.sleep(LOOK_EVERY_S)
