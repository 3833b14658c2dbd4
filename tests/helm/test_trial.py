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
from tests.servers.process import redis_binary
from tests.serving import free_port

# A loaded machine's; an idle one starts both in a second.
READY_WITHIN_S: Final = 20.0
LOOK_EVERY_S: Final = 0.05


async def test_helms_own_test_passes_on_a_trial() -> None:
    """Without an account: any key is let in, and the simulator answers."""
    release = preset("trial-values.yaml")
    redis, simulator, api, ops = (free_port() for _ in range(4))
    told = release.variables | {
        "GATEWAY_STORE_URL": f"redis://127.0.0.1:{redis}/0",
        "GATEWAY_UPSTREAM_URL": f"http://127.0.0.1:{simulator}/v1",
        "GATEWAY_OPS_PORT": str(ops),
    }
    gateway = (sys.executable, "-m", "gateway")

    async with AsyncExitStack() as running:
        for part, command, port, variables in (
            ("-redis", (redis_binary(), "--bind", "127.0.0.1"), redis, {}),
            ("-simulator", gateway, simulator, {}),
            ("", gateway, api, told),
        ):
            pod = release.of("Deployment", NAME + part)["spec"]["template"]["spec"]
            arguments = moved(pod["containers"][0]["args"], port)
            await running.enter_async_context(
                process((*command, *arguments), variables)
            )
        await until_ready(f"http://127.0.0.1:{ops}/readyz")
        code, output = await run_hook(f"http://127.0.0.1:{api}", "helm-test")

    assert 0 == code, output
    assert output.startswith("llmtune-mini: ")


def moved(arguments: list[str], port: int) -> list[str]:
    """A container's arguments, for a loopback port."""
    if "--appendonly" in arguments:
        return [*arguments, "--port", str(port)]
    own = [each for each in arguments if not each.startswith(("--host=", "--port="))]
    return [*own, "--host=127.0.0.1", f"--port={port}"]


@asynccontextmanager
async def process(
    command: tuple[str, ...], variables: Mapping[str, str]
) -> AsyncIterator[None]:
    """A container's process, ended with the block."""
    started = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **variables}, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield
    finally:
        started.kill()
        await started.wait()


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
