"""
How fast a sidecar starts, and what it takes while nobody asks.

    python -m tests.proofs.sidecar [--times 5] [--python PYTHON]

The real command as the chart starts it: one workspace, loopback, an ops port; with the
memory ledger and with a Redis. A start ends with the first 200 of /livez and, since a
probe may come before the rest, with the first answered completion. What it takes is
read a few seconds later.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final

import httpx
import uvloop

from tests.gateway_under_test import UPSTREAM_KEY, chat_body
from tests.proofs.check import Check, quantile, report
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer
from tests.upstream import ScriptedUpstream, scripted_upstream

START_WITHIN_S: Final = 1.0
IDLE_BELOW_MIB: Final = 80
GIVE_UP_S: Final = 20.0
LOOK_EVERY_S: Final = 0.005
# What is made beside the first requests is made by then.
IDLE_AFTER_S: Final = 3.0


class Start:
    """One process, from its start to its end."""

    def __init__(self, python: str, upstream: ScriptedUpstream, store_url: str) -> None:
        self._python = python
        self._environment = {
            **os.environ,
            "GATEWAY_UPSTREAM_URL": upstream.url,
            "GATEWAY_UPSTREAM_API_KEY": UPSTREAM_KEY,
            "GATEWAY_SIDECAR_WORKSPACE": "shop",
            "GATEWAY_SIDECAR_PLAN": "enterprise",
            "GATEWAY_STORE_URL": store_url,
        }

    async def measure(self, is_idle_awaited: bool) -> tuple[float, float, float]:
        """Seconds to /livez and to a completion, and the idle process' MiB."""
        port = ReservedPort()
        began_s = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            self._python,
            *("-m", "gateway", "serve", "--port", str(port.number)),
            env=self._environment,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with (
                asyncio.timeout(GIVE_UP_S),
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.number}") as client,
            ):
                await _until_it_lives(client)
                lives_s = time.perf_counter() - began_s
                answer = await client.post("/v1/chat/completions", json=chat_body())
                assert answer.status_code == 200, answer.text
                answers_s = time.perf_counter() - began_s
                if is_idle_awaited:
                    await asyncio.sleep(IDLE_AFTER_S)
            return lives_s, answers_s, _rss_mib(process.pid)
        finally:
            process.terminate()
            await process.wait()
            port.release()


async def _until_it_lives(client: httpx.AsyncClient) -> None:
    while True:
        try:
            if (await client.get("/livez")).status_code == 200:
                return
        except httpx.TransportError:
            pass  # nobody listens yet
        await asyncio.sleep(LOOK_EVERY_S)


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


async def prove(times: int, python: str) -> list[Check]:
    checks = []
    async with scripted_upstream() as upstream, RedisServer() as server:
        for name, store_url in (("memory", "memory://"), ("Redis", server.url)):
            start = Start(python, upstream, store_url)
            # The first reads its files from the disk.
            await start.measure(is_idle_awaited=False)
            found = [
                await start.measure(is_idle_awaited=number == 0)
                for number in range(times)
            ]
            lives_s, answers_s, _ = zip(*found, strict=True)
            checks += [
                _time(f"{name}: lives", lives_s),
                _time(f"{name}: has answered", answers_s),
                Check(
                    f"{name}: idle",
                    f"{found[0][2]:.0f} MiB RSS",
                    found[0][2] < IDLE_BELOW_MIB,
                ),
            ]
    return checks


def _time(name: str, took_s: tuple[float, ...]) -> Check:
    middle_s = quantile(took_s, 0.5)
    figure = f"median {middle_s:.2f} s, longest {max(took_s):.2f} s"
    return Check(name, figure, middle_s < START_WITHIN_S)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--python", default=sys.executable)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return report(runner.run(prove(args.times, args.python)))


if __name__ == "__main__":
    sys.exit(main())
