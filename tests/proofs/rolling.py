"""
Replicas replaced one after the other behind a real Envoy: nobody notices.

    python -m tests.proofs.rolling [--streams 200]

Three replicas share a Redis. Envoy knows them by their readiness alone, as a load
balancer outside of a cluster does, and retries nothing, so that no failure is hidden.
Through it run streams of about six seconds and short requests, without a pause, while
each replica in turn gets SIGTERM, ends, and is started again on its port. Every request
must be answered with 200 and every stream must end with [DONE].
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from tests.proofs.check import Check, report, until
from tests.proofs.deployment import Deployment, deployed
from tests.proofs.lean_client import Answer
from tests.proofs.lean_upstream import EVENT_EVERY_S
from tests.servers.envoy import Envoy, cluster, envoy, listener, route_to
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer

REPLICAS: Final = 3
EVENTS: Final = 120
SHORT_ASKERS: Final = 8
# Envoy looks every quarter of a second, so eight looks may be lost.
NOTICE_S: Final = 2.0
LOOK_EVERY: Final = "0.25s"
# Longer than any stream here.
DRAIN_S: Final = 30.0
ALL_READY_WITHIN_S: Final = 30.0
PLANS: Final = {"open": "plan: open\n"}


class Load:
    """Streams and short requests, and how each ended."""

    def __init__(self, deployment: Deployment, url: str) -> None:
        self._deployment = deployment
        self._url = url
        self._is_over = False
        self.open_streams = 0
        self.ends: Counter[str] = Counter()
        self.odd: list[str] = []

    def stop(self) -> None:
        """No more than what runs."""
        self._is_over = True

    async def stream(self) -> None:
        while not self._is_over:
            self.open_streams += 1
            answer = await self._ask(stream=True, events=EVENTS)
            self.open_streams -= 1
            self._count("stream", answer, is_whole=answer.body.endswith(b"[DONE]\n\n"))

    async def ask(self) -> None:
        while not self._is_over:
            answer = await self._ask()
            self._count("request", answer, is_whole=bool(answer.body))

    async def _ask(self, **fields: Any) -> Answer:
        return await self._deployment.chat("open", url=self._url, **fields)

    def _count(self, kind: str, answer: Answer, *, is_whole: bool) -> None:
        if answer.status != 200:
            end = "failed"
            self.odd.append(f"{kind} {answer.status} {answer.body[:200]!r}")
        elif not is_whole:
            end = "cut"
            self.odd.append(f"{kind} cut {answer.body[-200:]!r}")
        else:
            end = "ok"
        self.ends[f"{kind} {end}"] += 1


async def prove(streams: int) -> list[Check]:
    async with AsyncExitStack() as held:
        server = await held.enter_async_context(RedisServer())
        deployment = await held.enter_async_context(
            deployed(
                PLANS,
                store_url=server.url,
                replicas=REPLICAS,
                GATEWAY_DRAIN_NOTICE_S=f"{NOTICE_S:g}",
                GATEWAY_DRAIN_TIMEOUT_S=f"{DRAIN_S:g}",
                # A slow machine is no outage.
                GATEWAY_STORE_TIMEOUT_S="2",
            )
        )
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="gw-proof-"))
        port = ReservedPort()
        held.callback(port.release)
        proxy = await held.enter_async_context(
            in_front_of(deployment, Path(folder), port.number)
        )
        return await roll_all(deployment, proxy, port.number, streams)


def in_front_of(deployment: Deployment, folder: Path, port: int) -> Any:
    """An Envoy that asks each replica whether it is ready, and retries nothing."""
    ports = [urlsplit(gateway.url).port or 0 for gateway in deployment.gateways]
    bounds = {
        "max_connections": 4096,
        "max_requests": 4096,
        "max_pending_requests": 4096,
    }
    look = {
        "timeout": "1s",
        "interval": LOOK_EVERY,
        "no_traffic_interval": LOOK_EVERY,
        "unhealthy_threshold": 1,
        "healthy_threshold": 1,
        "http_health_check": {"path": "/readyz"},
    }
    gateways = cluster(
        "gateway",
        *ports,
        health_checks=[look],
        circuit_breakers={"thresholds": [bounds]},
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
    )
    return envoy(
        folder,
        listeners=[listener("in", port, route_to("gateway"))],
        clusters=[gateways],
    )


async def roll_all(
    deployment: Deployment, proxy: Envoy, port: int, streams: int
) -> list[Check]:
    async def all_healthy() -> bool:
        stats = await proxy.stats("cluster.gateway.membership_healthy")
        return stats.get("cluster.gateway.membership_healthy") == REPLICAS

    await until(all_healthy, "healthy replicas", within_s=ALL_READY_WITHIN_S)
    load = Load(deployment, f"http://127.0.0.1:{port}")
    open_at: list[int] = []
    took_s: list[float] = []

    async def all_open() -> bool:
        return load.open_streams >= streams

    async with asyncio.TaskGroup() as running:
        for _ in range(streams):
            running.create_task(load.stream())
        for _ in range(SHORT_ASKERS):
            running.create_task(load.ask())
        await until(all_open, "open streams", within_s=ALL_READY_WITHIN_S)
        for gateway in deployment.gateways:
            # Streams that began together would otherwise end together.
            await asyncio.sleep(EVENTS * EVENT_EVERY_S / 4)
            open_at.append(load.open_streams)
            began_s = time.monotonic()
            await gateway.roll(NOTICE_S + DRAIN_S + 10)
            await until(all_healthy, "the successor", within_s=ALL_READY_WITHIN_S)
            took_s.append(time.monotonic() - began_s)
        load.stop()
    return checks_of(load, open_at, took_s)


def checks_of(load: Load, open_at: list[int], took_s: list[float]) -> list[Check]:
    for line in load.odd[:10]:
        print(line)
    ends = load.ends
    failed = ends["stream failed"] + ends["request failed"]
    return [
        Check("streams open at each SIGTERM", str(open_at), min(open_at) > 0),
        Check("seconds of each replacement", " ".join(f"{s:.1f}" for s in took_s)),
        Check("streams to their [DONE]", str(ends["stream ok"]), ends["stream ok"] > 0),
        Check("short requests", str(ends["request ok"]), ends["request ok"] > 0),
        Check("failed", str(failed), failed == 0),
        Check("cut", str(ends["stream cut"]), ends["stream cut"] == 0),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    streams = parser.parse_args().streams
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return report(runner.run(prove(streams)))


if __name__ == "__main__":
    sys.exit(main())
