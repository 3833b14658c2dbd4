"""
A deployment on loopback: a lean upstream and gateways by the real command line.

Every process is ours, is ended by its own pid, and does not outlive this one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from tests.gateway_under_test import write_policy
from tests.proofs.lean_client import Answer, LeanClient

START_WITHIN_S: Final = 20.0
STOP_WITHIN_S: Final = 15.0


class GatewayProcess:
    """One replica."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        url: str,
        environment: dict[str, str],
    ) -> None:
        self.process = process
        self.url = url
        self._environment = environment
        # Read to the end, or the pipe would fill and the gateway wait for us.
        self._drained = asyncio.ensure_future(_drain(process))

    async def roll(self, within_s: float) -> None:
        """Ask it to end, let it take its time, and start its successor in its place."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(within_s):
            await self.process.wait()
        await self._drained
        assert self.process.returncode == 0, self.process.returncode
        port = int(self.url.rpartition(":")[2])
        self.process, self.url = await _start(self._environment, port)
        self._drained = asyncio.ensure_future(_drain(self.process))

    def kill(self) -> None:
        self.process.kill()

    async def stop(self) -> None:
        """Ask it to end, and make it if it does not."""
        await _end(self.process)
        await self._drained


class Deployment:
    """Replicas, their keys, and a client."""

    def __init__(
        self,
        gateways: list[GatewayProcess],
        keys: dict[str, str],
        client: LeanClient,
        upstream_url: str,
    ) -> None:
        self.gateways = gateways
        self.keys = keys
        self.client = client
        self._upstream_url = upstream_url
        self._turn = 0

    def next_url(self) -> str:
        """The replicas in turn; those that were killed are left out."""
        running = [g for g in self.gateways if g.process.returncode is None]
        self._turn += 1
        return running[self._turn % len(running)].url

    async def chat(self, plan: str, **fields: Any) -> Answer:
        """A completion by the next replica, for the workspace of that plan."""
        key, url = self.keys[plan], fields.pop("url", None) or self.next_url()
        return await self.client.chat(url, key, f"ws-{plan}", **fields)

    async def limits(self, plan: str, url: str | None = None) -> dict[str, Any]:
        """What /v1/limits says, by dimension."""
        answer = await self.client.get(
            url or self.next_url(), "/v1/limits", self.keys[plan]
        )
        return {limit["dimension"]: limit for limit in answer.json["limits"]}

    async def tally(self) -> dict[str, Any]:
        """What the upstream delivered, by workspace."""
        answer = await self.client.get(self._upstream_url, "/tally")
        found: dict[str, Any] = answer.json
        return found


@asynccontextmanager
async def deployed(
    plans: dict[str, str], *, store_url: str, replicas: int = 4, **settings: str
) -> AsyncIterator[Deployment]:
    """Gateways that share a store, each ready to answer."""
    async with AsyncExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="gw-proof-"))
        keys, plans_dir, keys_file = write_policy(Path(folder), plans)
        upstream_url = await _start_upstream(held)
        environment = {
            "GATEWAY_UPSTREAM_URL": f"{upstream_url}/v1",
            "GATEWAY_UPSTREAM_API_KEY": "proof",
            "GATEWAY_STORE_URL": store_url,
            "GATEWAY_PLANS_DIR": str(plans_dir),
            "GATEWAY_KEYS_FILE": str(keys_file),
            **settings,
        }
        # At the same time: each spends most of its start importing, on one core.
        async with asyncio.TaskGroup() as starting:
            tasks = [
                starting.create_task(_start_gateway(held, environment))
                for _ in range(replicas)
            ]
        gateways = [task.result() for task in tasks]
        client = await held.enter_async_context(LeanClient())
        yield Deployment(gateways, keys, client, upstream_url)


async def _start_upstream(held: AsyncExitStack) -> str:
    # Bound here and handed over, so that its port is known and listens at once.
    listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.proofs.lean_upstream",
        str(listener.fileno()),
        pass_fds=[listener.fileno()],
    )
    held.push_async_callback(_end, process)
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def _start_gateway(
    held: AsyncExitStack, environment: dict[str, str]
) -> GatewayProcess:
    process, url = await _start(environment, 0)
    gateway = GatewayProcess(process, url, environment)
    held.push_async_callback(gateway.stop)
    return gateway


async def _start(
    environment: dict[str, str], port: int
) -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "serve", "--port", str(port)),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(START_WITHIN_S):
            return process, await _address(process)
    except BaseException:
        # One that ended by itself has said why.
        with suppress(ProcessLookupError):
            process.kill()
        raise


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async for line in process.stdout:
        said = json.loads(line)
        if "address" in said:
            return str(said["address"])
    raise RuntimeError("the gateway ended before it served")


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    while await process.stdout.read(65_536):
        pass


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_WITHIN_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
