"""
What a real Envoy in front adds: the first event's way, and how fast a leaver is heard.

    python -m tests.proofs.proxied [--times 200]

Upstream, gateway and client share this process and its clock, so what is measured is
more than is promised: an event's way begins at the upstream and not at the gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Final

import httpx
import uvloop

from tests.gateway_under_test import (
    GatewayUnderTest,
    OpenStream,
    chat_body,
    gateway_under_test,
)
from tests.proofs.check import Check, quantile, report
from tests.servers.envoy import cluster, envoy, listener, route_to
from tests.servers.process import ReservedPort
from tests.upstream import (
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedUpstream,
    frame,
    scripted_upstream,
)

FIRST_EVENT_WITHIN_S: Final = 0.005
FREE_WITHIN_S: Final = 0.2
LOOK_EVERY_S: Final = 0.0005


class Ways:
    """The same stream, straight to the gateway and through Envoy."""

    def __init__(self, gateway: GatewayUnderTest, upstream: ScriptedUpstream) -> None:
        self._gateway = gateway
        self._upstream = upstream

    async def first_event_s(self, client: httpx.AsyncClient) -> float:
        """From the upstream's write of the first event to the client's read of it."""
        go_on, end = asyncio.Event(), asyncio.Event()
        self._upstream.will(
            STREAM_HEAD, go_on, frame({"text": "Hel"}), end, frame("[DONE]"), LAST_CHUNK
        )
        asked = len(self._upstream.requests)
        reading = asyncio.ensure_future(self._read(client, end))
        await self._upstream.saw(asked + 1)
        sent_s = time.perf_counter()
        go_on.set()
        return await reading - sent_s

    async def _read(self, client: httpx.AsyncClient, end: asyncio.Event) -> float:
        """When the first text came."""
        async with self._stream(client) as response:
            stream = OpenStream(response)
            await stream.text_until("Hel")
            came_s = time.perf_counter()
            end.set()
            while await stream.next_line() is not None:
                pass
        return came_s

    async def freed_s(self, base_url: str) -> float:
        """From a client's leaving to its lease's end."""
        self._upstream.will(STREAM_HEAD, frame({"text": "Hel"}), "hang")
        async with (
            httpx.AsyncClient(base_url=base_url, timeout=10) as client,
            self._stream(client) as response,
        ):
            await OpenStream(response).text_until("Hel")
            left_s = time.perf_counter()
        while self._gateway.held():
            assert time.perf_counter() - left_s < 10, "the lease is held for ever"
            await asyncio.sleep(LOOK_EVERY_S)
        return time.perf_counter() - left_s

    def _stream(
        self, client: httpx.AsyncClient
    ) -> AbstractAsyncContextManager[httpx.Response]:
        return client.stream(
            "POST",
            "/v1/chat/completions",
            json=chat_body(stream=True),
            headers=self._gateway.auth(),
        )


async def prove(times: int) -> list[Check]:
    async with AsyncExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="gw-")))
        upstream = await held.enter_async_context(scripted_upstream())
        gateway = await held.enter_async_context(
            gateway_under_test(folder, upstream_url=upstream.url)
        )
        port = ReservedPort()
        held.callback(port.release)
        await held.enter_async_context(
            envoy(
                folder,
                listeners=[listener("in", port.number, route_to("gateway"))],
                clusters=[cluster("gateway", gateway.address.port)],
            )
        )
        ways = Ways(gateway, upstream)
        through = f"http://127.0.0.1:{port.number}"
        checks = []
        for name, url in (("straight", gateway.url), ("through Envoy", through)):
            async with httpx.AsyncClient(base_url=url, timeout=10) as client:
                took_s = [await ways.first_event_s(client) for _ in range(times)]
            checks.append(_check(f"first event, {name}", took_s, FIRST_EVENT_WITHIN_S))
            freed_s = [await ways.freed_s(url) for _ in range(times)]
            checks.append(_check(f"lease free, {name}", freed_s, FREE_WITHIN_S))
        return checks


def _check(name: str, took_s: list[float], within_s: float) -> Check:
    p50, p99 = quantile(took_s, 0.5) * 1000, quantile(took_s, 0.99) * 1000
    figure = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, longest {max(took_s) * 1000:.2f} ms"
    return Check(f"{name}, {len(took_s)} times", figure, p99 <= within_s * 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    times = parser.parse_args().times
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return report(runner.run(prove(times)))


if __name__ == "__main__":
    sys.exit(main())
