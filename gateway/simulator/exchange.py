"""
One HTTP exchange: a request read, an answer written, a client that may leave.

Everything that waits waits here, so that a client's leaving ends the wait at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from gateway.simulator.replies import Header

# ASGI's messages are open dictionaries.
Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

# Key of the ASGI extension by which `server` lets a handler drop the connection:
# abort(reset=True) resets it, abort(reset=False) closes it after what was written.
ABORT: Final = "llmtune.abort"

# A connection that was told to close has closed within this, or never will.
CLOSING_S: Final = 5.0


class ClientLeft(Exception):
    """The client closed the connection before the answer was complete."""


class BodyTooLarge(Exception):
    """The request's body is larger than the simulator accepts."""


class Exchange:
    """One request and its answer."""

    __slots__ = ("_gone", "_receive", "_send", "_sleeper", "_watcher", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._gone = False
        self._sleeper: asyncio.Future[None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> str | None:
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    async def read_body(self, limit: int) -> bytes:
        message = await self._receive()
        # Nearly every body arrives with its headers.
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
        else:
            body = await self._read_on(message, limit)
        if len(body) > limit:
            raise BodyTooLarge
        return body

    async def _read_on(self, message: Message, limit: int) -> bytes:
        body = bytearray()
        while True:
            if message["type"] == "http.disconnect":
                raise ClientLeft
            body += message.get("body", b"")
            if len(body) > limit or not message.get("more_body"):
                return bytes(body)
            message = await self._receive()

    async def start(self, status: int, headers: list[Header]) -> None:
        await self._send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )

    async def write(self, body: bytes, *, more: bool) -> None:
        await self._send(
            {"type": "http.response.body", "body": body, "more_body": more}
        )

    async def pause(self, seconds: float) -> None:
        """Wait, or raise `ClientLeft` as soon as the client does."""
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        if not self._gone:
            # As lean as asyncio.sleep: thousands of streams pause at every token.
            loop = asyncio.get_running_loop()
            self._sleeper = loop.create_future()
            timer = loop.call_later(seconds, self._wake)
            try:
                await self._sleeper
            finally:
                timer.cancel()
        if self._gone:
            raise ClientLeft

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def drop(self, *, reset: bool) -> None:
        """Lose the connection without completing the answer."""
        self.scope["extensions"][ABORT](reset=reset)
        try:
            await self.pause(CLOSING_S)
        except ClientLeft:
            return
        # A client that reads nothing keeps a close from ever finishing.
        self.scope["extensions"][ABORT](reset=True)

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
