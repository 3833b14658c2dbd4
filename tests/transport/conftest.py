"""Both transports, and a server that answers them byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import httpx
import pytest
import uvloop

from gateway.upstream.lean_transport import LeanTransport
from gateway.upstream.stock_transport import stock_transport
from tests.upstream import PATIENCE_S, ScriptedUpstream, scripted_upstream

Handle: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]
OpenTransport: TypeAlias = Callable[..., httpx.AsyncBaseTransport]
TIMEOUTS: Final = {"connect": PATIENCE_S, "pool": PATIENCE_S, "write": PATIENCE_S}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway runs on uvloop, whose transports differ from asyncio's."""
    del config, item
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=["lean", "stock"])
def kind(request: pytest.FixtureRequest) -> str:
    """Every test of the contract runs on both; a module of one's own says which."""
    found: str = request.param
    return found


@pytest.fixture
async def open_transport(kind: str) -> AsyncIterator[OpenTransport]:
    """Makes transports of the kind under test, and closes them."""
    made: list[httpx.AsyncBaseTransport] = []

    def make(**options: Any) -> httpx.AsyncBaseTransport:
        settings = {"max_connections": 100, "idle_s": 50.0, **options}
        transport: httpx.AsyncBaseTransport = (
            LeanTransport(**settings) if kind == "lean" else stock_transport(**settings)
        )
        made.append(transport)
        return transport

    yield make
    for transport in made:
        await transport.aclose()


@pytest.fixture
def transport(open_transport: OpenTransport) -> httpx.AsyncBaseTransport:
    return open_transport()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as running:
        yield running


def post(url: str, content: Any = b"{}", **options: Any) -> httpx.Request:
    """A request as the gateway makes them."""
    timeouts = {**TIMEOUTS, **options.pop("timeout", {})}
    return httpx.Request(
        options.pop("method", "POST"),
        url + "/chat/completions",
        content=content,
        extensions={"timeout": timeouts},
        **options,
    )


@asynccontextmanager
async def serving(handle: Handle, **options: Any) -> AsyncIterator[str]:
    """A server of a test's own; its URL. Its connections end with the block."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the caller left, or the test is over
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    scheme = "https" if options.get("ssl") else "http"
    try:
        yield f"{scheme}://localhost:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks)


class Answer:
    """A whole answer, read and closed."""

    def __init__(self, response: httpx.Response, body: bytes) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.body = body


async def ask(transport: httpx.AsyncBaseTransport, url: str, **options: Any) -> Answer:
    """Call, read to the end and close."""
    async with asyncio.timeout(PATIENCE_S):
        response = await transport.handle_async_request(post(url, **options))
        try:
            assert isinstance(response.stream, httpx.AsyncByteStream)
            body = b"".join([chunk async for chunk in response.stream])
        finally:
            await response.aclose()
    return Answer(response, body)


async def until(holds: Callable[[], Awaitable[bool] | bool], what: str) -> None:
    """Wait until something holds that the loop's next turns bring about."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = holds()
            if isinstance(found, bool):
                if found:
                    return
            elif await found:
                return
            await asyncio.sleep(0.001)
    raise AssertionError(what)
