"""
One request on a client's connection, and its answer.

ASGI hands an answer over in messages, each a coroutine, a dictionary and a write. Our
own handlers write through `Wire` instead: a whole answer leaves in one piece, an event
of a stream without a task switch, and who waits for the upstream is told by a call when
the client leaves. What Litestar answers still comes as messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from gateway.errors import ClientGone, Header
from gateway.flow_control import FlowControl
from gateway.wire import Application, RequestHead

logger = logging.getLogger(__name__)

_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode("ascii"))
    for status in HTTPStatus
}
# Of a body that nobody reads, before its client is made to wait.
HIGH_WATER_BYTES: Final = 64 * 1024

_BODILESS: Final = frozenset({204, 304})
_CLOSE: Final = (b"connection", b"close")
_CHUNKED: Final = b"\r\ntransfer-encoding: chunked\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Cycle:
    """Implements `Wire`, and ASGI, for one request; the protocol feeds it."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_default_headers",
        "_flow",
        "_has_more_body",
        "_is_chunked",
        "_is_continue_awaited",
        "_is_head",
        "_is_news",
        "_on_complete",
        "_tell_gone",
        "_transport",
        "_waiter",
        "_write_timeout_s",
        "disconnected",
        "head",
        "headers",
        "keep_alive",
        "response_complete",
        "response_started",
        "task",
    )

    def __init__(
        self,
        head: RequestHead,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        default_headers: list[Header],
        keep_alive: bool,
        write_timeout_s: float,
        on_complete: Callable[[], None],
    ) -> None:
        self.keep_alive = keep_alive
        # The client is gone, or no longer listened to.
        self.disconnected = False
        self.response_started = self.response_complete = False
        self._transport = transport
        self._flow = flow
        self._default_headers = default_headers
        self._write_timeout_s = write_timeout_s
        self.head = head
        self.headers: dict[bytes, bytes] = dict(head.headers)
        # To which a body is announced and not sent.
        self._is_head = head.method == "HEAD"
        self._is_continue_awaited = (
            b"expect" in self.headers
            and self.headers[b"expect"].lower() == b"100-continue"
            and head.version != "1.0"
        )
        self._on_complete = on_complete
        # The one that runs it, as long as it does.
        self.task: asyncio.Task[None] | None = None
        self._tell_gone: Callable[[], None] | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._has_more_body = True
        # Whether what came of the body was not looked at yet.
        self._is_news = False
        self._waiter: asyncio.Future[None] | None = None
        self._is_chunked = False

    async def run(self, app: Application, tasks: set[asyncio.Task[None]]) -> None:
        """
        Have the request answered; a handler that fails must not go unnoticed.

        Leaves `tasks` at its end, which is cheaper than a callback that does it.
        """
        try:
            await app(self)
        except Exception:
            logger.exception("a handler failed")
        finally:
            if self.task is not None:
                tasks.discard(self.task)
                self.task = None
        if not self.response_complete and not self.disconnected:
            # Nothing, or half of something, was answered.
            self._transport.close()

    # What the protocol does.

    def add_body(self, data: bytes) -> None:
        """Some of the request's body has arrived."""
        self._body.append(data)
        self._body_bytes += len(data)
        if self._body_bytes > HIGH_WATER_BYTES:
            self._flow.pause_reading()
        self._is_news = True
        if self._waiter is not None:
            self._tell_news()

    def end_body(self) -> None:
        """All of the request has arrived."""
        self._has_more_body = False
        self._is_news = True
        if self._waiter is not None:
            self._tell_news()

    def leave(self) -> None:
        """The client is gone, or no longer listened to."""
        self.disconnected = True
        self._tell_news()
        if self._tell_gone is not None:
            self._tell_gone()

    def _tell_news(self) -> None:
        self._is_news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What the exchange does.

    @property
    def is_paused(self) -> bool:
        """Whether the client reads slower than is written to it."""
        return self._flow.write_paused and not self.disconnected

    @property
    def is_gone(self) -> bool:
        """Whether the client has left, or is no longer listened to."""
        return self.disconnected

    async def catch_up(self, timeout_s: float) -> None:
        """Until it has read what was written, or is gone; ClientGone if it does not."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.is_paused:
                    await self._flow.drain()
        except TimeoutError:
            # A reader this slow would hold its lease and the upstream for hours.
            self.abort()
            raise ClientGone from None

    def abort(self) -> None:
        self._transport.abort()

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Call this once the client leaves; None forgets it."""
        self._tell_gone = tell
        if tell is not None and self._flow.is_read_paused:
            # Its end is seen only by who reads.
            self._flow.resume_reading()

    def take_body(self) -> bytes | None:
        """The body, if all of it has arrived and none was taken yet."""
        if self._has_more_body or self.disconnected or not self._is_news:
            return None
        return self._taken()

    def _taken(self) -> bytes:
        chunks = self._body
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._body_bytes = 0
        self._is_news = False
        return body

    def begin(self, status: int, headers: list[Header]) -> None:
        """Write the head of an answer whose length its headers give, or nobody."""
        head = self._head(status, headers)
        if not self.disconnected:
            self._transport.write(head)

    def write(self, data: bytes, *, more: bool) -> None:
        """Write some of the body, or with `more` false the last of it."""
        if self.disconnected:
            return
        if self._is_head:
            data = b""
        elif self._is_chunked:
            framed = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            data = framed if more else framed + b"0\r\n\r\n"
        if data:
            self._transport.write(data)
        if not more:
            self._complete()

    def push(self, data: bytes) -> bool:
        """
        Write an event of a stream that has begun; False if the client lags behind.

        Half of what `write` and a look at `is_paused` take.
        """
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self.disconnected or self._is_head:
            return True
        self._transport.write(data)
        return not self._flow.write_paused

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        """Write a whole answer, whose headers give its length."""
        head = self._head(status, headers)
        if self.disconnected:
            return
        if self._is_head:
            body = b""
        # In one segment: two writes are two packets, and wake the client twice.
        self._transport.write(head + body)
        self._complete()

    def _head(self, status: int, headers: list[Header]) -> bytes:
        self.response_started = True
        self._is_continue_awaited = False
        lines = [*self._default_headers, *headers]
        if _CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(_CLOSE)
        is_sized = status in _BODILESS or self._is_head
        for name, _ in lines:
            is_sized = is_sized or name == b"content-length"
        # HTTP/1.0 knows no chunks: such a body goes to the connection's end.
        self._is_chunked = not is_sized and self.head.version != "1.0"
        fields = b"\r\n".join([b": ".join(line) for line in lines])
        end = _CHUNKED if self._is_chunked else b"\r\n\r\n"
        head = _STATUS_LINES[status] + fields + end
        breaks = len(lines) + (3 if self._is_chunked else 2)
        if head.count(b"\n") != breaks or head.count(b"\r") != breaks:
            # Nothing of ours has one; what was passed on from elsewhere might.
            raise ValueError("a header's value holds a line break")
        return head

    def _complete(self) -> None:
        self.response_complete = True
        if self._waiter is not None:
            self._tell_news()
        if not self.keep_alive:
            self._transport.close()
        self._on_complete()

    # What ASGI's applications do.

    async def receive(self) -> dict[str, Any]:
        """What came of the body, or that nothing more will."""
        if self._is_continue_awaited and not self._transport.is_closing():
            self._is_continue_awaited = False
            self._transport.write(_CONTINUE)
        while not (self._is_news or self.disconnected or self.response_complete):
            self._flow.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {
            "type": "http.request",
            "body": self._taken(),
            "more_body": self._has_more_body,
        }

    async def send(self, message: dict[str, Any]) -> None:
        """Write a message as it says, once the client has caught up, or never."""
        if self.is_paused:
            try:
                await self.catch_up(self._write_timeout_s)
            except ClientGone:
                return
        if message["type"] == "http.response.start":
            headers = [(n.lower(), v) for n, v in message.get("headers", ())]
            self.begin(message["status"], headers)
        else:
            more = bool(message.get("more_body"))
            self.write(message.get("body", b""), more=more)
