"""A client's end of an exchange that remembers what goes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.errors import Header
from gateway.sse import PING
from gateway.wire import RequestHead, Wire


class RecordingWire:
    """Implements `Wire` over another, and keeps the answer up to a bound."""

    def __init__(self, wire: Wire, max_bytes: int) -> None:
        self._wire = wire
        self._max_bytes = max_bytes
        self._chunks: list[bytes] = []
        self._bytes = 0
        self.status = 0
        self.sent_headers: list[Header] = []
        # Whether all of it has been sent, and kept.
        self.is_complete = False
        self.is_too_large = False

    @property
    def body(self) -> bytes:
        return b"".join(self._chunks)

    def _keep(self, data: bytes, *, more: bool) -> None:
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self.is_too_large = True
            self._chunks.clear()
        elif data and not self.is_too_large:
            self._chunks.append(data)
        self.is_complete = not more

    def begin(self, status: int, headers: list[Header]) -> None:
        self.status, self.sent_headers = status, headers
        self._wire.begin(status, headers)

    def write(self, data: bytes, *, more: bool) -> None:
        # A ping is of the silence that it breaks.
        self._keep(b"" if data == PING else data, more=more)
        self._wire.write(data, more=more)

    def push(self, data: bytes) -> bool:
        self._keep(data, more=True)
        return self._wire.push(data)

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        self.status, self.sent_headers = status, headers
        self._keep(body, more=False)
        self._wire.answer(status, headers, body)

    # What is not recorded.

    @property
    def head(self) -> RequestHead:
        return self._wire.head

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self._wire.headers

    @property
    def is_paused(self) -> bool:
        return self._wire.is_paused

    @property
    def is_gone(self) -> bool:
        return self._wire.is_gone

    async def receive(self) -> dict[str, Any]:
        return await self._wire.receive()

    async def send(self, message: dict[str, Any]) -> None:
        await self._wire.send(message)

    async def drain(self) -> None:
        await self._wire.drain()

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        self._wire.when_gone(tell)

    def take_body(self) -> bytes | None:
        return self._wire.take_body()

    def abort(self) -> None:
        self._wire.abort()
