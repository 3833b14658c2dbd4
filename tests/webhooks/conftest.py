"""A receiver of webhooks on loopback, which does what a test tells it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import pytest
import uvloop

from gateway.webhooks.delivery import Outcome, deliver
from gateway.webhooks.targets import Allowed, Lookup

Handle: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]

LOOPBACK: Final = Allowed(["127.0.0.0/8"])
BODY: Final = b'{"type":"training.completed"}'
NOW_S: Final = 1_795_780_800.0
NO_TRUST: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway runs on uvloop, whose transports differ from asyncio's."""
    del config, item
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class Receiver:
    """Reads requests and answers each with the same bytes."""

    def __init__(
        self, answer: bytes, then: Handle | None = None, *, listens: bool = True
    ) -> None:
        """
        `then` goes on with a connection that was answered; else it is closed. One that
        does not listen answers before it was asked.
        """
        self._answer = answer
        self._listens = listens
        self._then = then
        self.requests: list[bytes] = []
        self.was_asked = asyncio.Event()
        self.was_left = asyncio.Event()
        self._serving: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if self._listens:
                self.requests.append(await reader.readuntil(BODY))
            self.was_asked.set()
            writer.write(self._answer)
            if self._then is not None:
                await self._then(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            # The sender left, or only wanted to see who is here.
            pass
        finally:
            self.was_left.set()
            writer.close()

    async def aclose(self) -> None:
        """Wait until nobody is served any more."""
        if self._serving:
            async with asyncio.timeout(10):
                await asyncio.wait(self._serving)


@asynccontextmanager
async def receiving(
    receiver: Receiver, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    server = await asyncio.start_server(receiver, "127.0.0.1", 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver
        await receiver.aclose()


async def until_left(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Say nothing more, until the sender goes."""
    del writer
    await reader.read()


async def send(
    url: str,
    *,
    allowed: Allowed = LOOPBACK,
    timeout_s: float = 10.0,
    lookup: Lookup | None = None,
    trust: Callable[[], ssl.SSLContext] = lambda: NO_TRUST,
) -> Outcome:
    """Deliver the same body as every test does."""
    return await deliver(
        url,
        [(b"content-type", b"application/json"), (b"webhook-id", b"msg_1")],
        BODY,
        allowed=allowed,
        trust=trust,
        now_s=NOW_S,
        timeout_s=timeout_s,
        lookup=lookup,
    )
