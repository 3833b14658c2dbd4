"""The real `serve` command with workers: what it logs, and what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway_under_test import UPSTREAM_KEY, chat_body, write_policy
from tests.upstream import PATIENCE_S, ScriptedUpstream

# Nothing here speaks it, and a context of httpx's own reads every certificate anew.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# Importing everything takes seconds on a busy machine.
START_WITHIN_S: Final = 30.0

# Every sample by its name and labels.
Samples: TypeAlias = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Serving:
    """A running command; its output is read as it comes."""

    def __init__(self, process: asyncio.subprocess.Process, keys: dict[str, str]):
        self.process = process
        self.keys = keys
        self.lines: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())
        self.ops_url = ""

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))
            self._changed.set()
        self._changed.set()

    @property
    def url(self) -> str:
        return str(self.told("serving")[0]["address"])

    def told(self, message: str) -> list[dict[str, Any]]:
        """The log's lines with this message."""
        return [line for line in self.lines if line["message"] == message]

    async def until_told(
        self, message: str, count: int = 1, within_s: float = PATIENCE_S
    ) -> list[dict[str, Any]]:
        """Wait for so many lines with this message."""
        async with asyncio.timeout(within_s):
            while len(self.told(message)) < count:
                assert not self._reading.done(), f"it ended without {message!r}"
                self._changed.clear()
                await self._changed.wait()
        return self.told(message)

    async def until_silent(self, within_s: float = PATIENCE_S) -> None:
        """Wait until no process is left that could write to its output."""
        await asyncio.wait_for(self._reading, within_s)

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, by slot."""
        newest = {line["worker"]: line["pid"] for line in self.told("worker serves")}
        return [newest[slot] for slot in sorted(newest)]

    def client(self, url: str = "") -> httpx.AsyncClient:
        """A client whose every request has a connection of its own."""
        limits = httpx.Limits(max_keepalive_connections=0)
        auth = {"authorization": f"Bearer {self.keys['open']}"}
        return httpx.AsyncClient(
            base_url=url or self.url,
            timeout=PATIENCE_S * 2,
            limits=limits,
            verify=_NO_TLS,
            headers=auth,
        )

    async def scrape(self, url: str = "") -> Samples:
        """What the metrics say now, at whichever worker answers."""
        async with self.client(url) as client:
            return samples_of(await client.get("/metrics"))

    async def until_counted(
        self, holds: Callable[[Samples], bool], what: str
    ) -> Samples:
        """Scrape until the samples satisfy this."""
        samples: Samples = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not holds(samples := await self.scrape()):
                    pass
                return samples
        raise AssertionError(f"waited for {what}: {samples}")

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the supervisor alone; the exit code when all processes have ended."""
        self.process.send_signal(number)
        await self.until_silent(PATIENCE_S * 2)
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)

    async def aclose(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        await self._reading


def samples_of(response: httpx.Response) -> Samples:
    assert response.status_code == 200, response.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def count_of(samples: Samples, name: str, **labels: str) -> float:
    """The sum of a metric over all series that have these labels."""
    name = f"llmtune_gateway_{name}"
    return sum(
        value
        for (sample, has), value in samples.items()
        if sample == name and has >= labels.items()
    )


def shrunk(before: Samples, after: Samples) -> list[str]:
    """What only ever grows, and did not."""
    ends = ("_total", "_count", "_sum", "_bucket")
    return [
        f"{name}{dict(labels)}: {value} -> {after.get((name, labels))}"
        for (name, labels), value in before.items()
        if name.endswith(ends) and after.get((name, labels), -1) < value
    ]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment_of(
    folder: Path, upstream: ScriptedUpstream, store_url: str
) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of a gateway with the plan `open`, and its key."""
    keys, plans_dir, keys_file = write_policy(folder, {"open": "plan: open\n"})
    return {
        **os.environ,
        "GATEWAY_UPSTREAM_URL": upstream.url,
        "GATEWAY_UPSTREAM_API_KEY": UPSTREAM_KEY,
        "GATEWAY_STORE_URL": store_url,
        "GATEWAY_PLANS_DIR": str(plans_dir),
        "GATEWAY_KEYS_FILE": str(keys_file),
        "GATEWAY_DRAIN_TIMEOUT_S": "5",
    }, keys


@asynccontextmanager
async def serving(
    environment: tuple[dict[str, str], dict[str, str]],
    *arguments: str,
    workers: int = 2,
) -> AsyncIterator[Serving]:
    """The real command on a free port, serving; ended with the block."""
    variables, keys = environment
    where = arguments or ("--port", "0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--workers", str(workers)),
        *where,
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
        # A group of its own, as of a terminal, which a Ctrl-C reaches as one.
        start_new_session=True,
    )
    running = Serving(process, keys)
    try:
        await running.until_told("serving", within_s=START_WITHIN_S)
        if workers > 1:
            await running.until_told("worker serves", workers)
        yield running
    finally:
        await running.aclose()


async def chat(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=chat_body(**body))
