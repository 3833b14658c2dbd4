"""
What one request and one event cost: a guard that a slow machine does not trip.

Calls of Python functions are counted, which is the same on every machine, and CPU time
is compared with a fixed piece of work in the same minute. A bound that is passed has
been earned or is a regression: measure with `make bench`, then move it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest

ROOT: Final = Path(__file__).parents[2]
OURS: Final = (f"{ROOT}/gateway/", f"{ROOT}/policies/")

PLAN: Final = """\
plan: open
concurrency: 100
rates:
  - {of: requests, limit: 1000000, per: minute}
  - {of: tokens, limit: 100000000, per: minute}
quotas:
  - {of: requests, limit: 1000000, per: day}
  - {of: tokens, limit: 100000000, per: month}
"""
REQUESTS: Final = 100
EVENTS: Final = 500

# Measured 282 and 12.8; a tenth above is a function too many on every request's way.
MOST_CALLS_A_REQUEST: Final = 310
MOST_CALLS_AN_EVENT: Final = 14
# Measured 1.6 and 0.18, client, upstream and asyncio's own loop included.
# Double is what a busy machine makes of it; ten calls of httpx would be more.
MOST_YARDS_A_REQUEST: Final = 4.0
MOST_YARDS_AN_EVENT: Final = 0.45

_ANSWER: Final = (
    b'{"text":"Hello there, how can I help you today?","tokens":21,'
    b'"usage":{"prompt_tokens":9,"completion_tokens":12},"model":"llmtune-mini"}'
)
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_WHOLE: Final = _HEAD + b"content-length: %d\r\n\r\n" % len(_ANSWER) + _ANSWER
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """Answers whole at once, or with events one after the other."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if b'"stream":true' not in data:
            self._transport.write(_WHOLE)
            return
        self._left = EVENTS
        self._transport.write(_STREAM)
        self._next()

    def _next(self) -> None:
        if self._left:
            self._left -= 1
            self._transport.write(_chunk(b'data: {"token":"word "}\n\n'))
            # In a turn of its own, so that no two arrive together.
            asyncio.get_running_loop().call_later(0, self._next)
        else:
            self._transport.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


class Client(asyncio.Protocol):
    """Sends one request and knows its answer's end."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    async def ask(self, request: bytes, end: bytes) -> None:
        self._received, self._end = b"", end
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(30):
            await self._ended

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data)[-1024:]
        if self._received.endswith(self._end):
            self._ended.set_result(None)


class Bench:
    """A gateway between the two, and what it is asked."""

    def __init__(self, gateway: GatewayUnderTest, client: Client) -> None:
        self._client = client
        self._whole = gateway.raw_chat(max_tokens=64)
        self._streamed = gateway.raw_chat(stream=True, max_tokens=64)

    async def requests(self) -> int:
        for _ in range(REQUESTS):
            await self._client.ask(self._whole, b"}")
        return REQUESTS

    async def events(self) -> int:
        await self._client.ask(self._streamed, b"0\r\n\r\n")
        return EVENTS


@pytest.fixture
async def bench(start_gateway: StartGateway) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    async with _listening(Upstream) as port:
        gateway = await start_gateway(
            {"open": PLAN}, upstream_url=f"http://127.0.0.1:{port}/v1"
        )
        transport, client = await loop.create_connection(
            Client, "127.0.0.1", gateway.address.port
        )
        running = Bench(gateway, client)
        await running.requests()  # everything is made and known that is made once
        await running.events()
        yield running
        transport.close()


@asynccontextmanager
async def _listening(protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def calls_of(work: Callable[[], Awaitable[int]]) -> float:
    """Calls of our functions, and returns into our coroutines, for each piece."""
    calls = 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        if event == "call" and frame.f_code.co_filename.startswith(OURS):
            calls += 1

    sys.setprofile(count)
    try:
        pieces = await work()
    finally:
        sys.setprofile(None)
    return calls / pieces


async def yards_of(work: Callable[[], Awaitable[int]]) -> float:
    """CPU time for each piece, in yards; the least of a few, so without the noise."""
    costs, yards = [], []
    gc.collect()
    for _ in range(8):
        started_s = time.process_time()
        pieces = await work()
        costs.append((time.process_time() - started_s) / pieces)
        yards.append(yard_s())
    return min(costs) / min(yards)


def yard_s() -> float:
    """A fixed piece of work, of the kind the gateway does: some 250 us."""
    started_s = time.process_time()
    found: dict[str, tuple[int, bytes]] = {}
    for number in range(400):
        found[f"name-{number % 16}"] = _piece(number)
    return time.process_time() - started_s


def _piece(number: int) -> tuple[int, bytes]:
    return number, b"%d: %b\r\n" % (number, b"value")


@pytest.mark.skipif(
    sys.gettrace() is not None, reason="a tracer's own calls would be counted"
)
class TestCost:
    """Whoever makes one of these red has made every request dearer."""

    async def test_a_request_takes_so_many_calls(self, bench: Bench) -> None:
        """Counted: the same on any machine, whatever else runs."""
        calls = await calls_of(bench.requests)

        print(f"{calls:.1f} calls a request")
        assert calls <= MOST_CALLS_A_REQUEST

    async def test_an_event_takes_so_many_calls(self, bench: Bench) -> None:
        """Of a stream that flows: no task switch, nothing written twice."""
        calls = await calls_of(bench.events)

        print(f"{calls:.1f} calls an event")
        assert calls <= MOST_CALLS_AN_EVENT

    async def test_a_request_costs_so_many_yards(self, bench: Bench) -> None:
        """What calls do not show: allocations, copies, system calls."""
        yards = await yards_of(bench.requests)

        print(f"{yards:.2f} yards a request")
        assert yards <= MOST_YARDS_A_REQUEST

    async def test_an_event_costs_so_many_yards(self, bench: Bench) -> None:
        """The same for a stream's events."""
        yards = await yards_of(bench.events)

        print(f"{yards:.3f} yards an event")
        assert yards <= MOST_YARDS_AN_EVENT
