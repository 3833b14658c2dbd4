"""
One HTTP/1.1 connection to the upstream: a request out, an answer in, one at a time.

httptools parses, strictly: folded headers, bare line feeds, two lengths, or a length
beside chunks end the connection. What it leaves to its user is here: bounds, bodies
that end with the connection, and bytes that nobody asked for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, cast

import httptools
import httpx

# Sections of headers, trailers and chunk extensions; twice what any server sends.
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 256
# A reader that is slower than its upstream lets so much wait here before the upstream
# is made to wait: a few hundred events. What is in flight may come on top of it.
HIGH_WATER_BYTES: Final = 64 * 1024

_SWITCHING_PROTOCOLS: Final = 101


class Head:
    """What an answer says before its body."""

    __slots__ = ("headers", "http_version", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: bytes,
        http_version: bytes,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        self.status = status
        self.reason = reason
        self.http_version = http_version
        self.headers = headers


class Patience(NamedTuple):
    """How long a body may be silent, and until when all of it has to be here."""

    idle_s: float
    # On the event loop's clock.
    ends_at_s: float


class Connection(asyncio.Protocol):
    """
    A connection that carries one exchange after another.

    `send`, then `read_head`, then `read_body` until it is None; whoever stops earlier
    closes it. Errors are httpx's, and each condemns the connection.
    """

    def __init__(self, on_idle_lost: Callable[[Connection], None]) -> None:
        """`on_idle_lost` hears of an end, or of stray bytes, between two exchanges."""
        self._on_idle_lost = on_idle_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._error: httpx.TransportError | None = None
        self._is_write_paused = False
        self._is_read_paused = False
        # Of the exchange that runs.
        self._is_busy = False
        self._has_no_body = False
        self._head: Head | None = None
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_framed = False
        self._unparsed_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._buffered_bytes = 0
        self.is_complete = False
        # Whether a byte of the answer has come.
        self.is_answering = False
        self.is_reusable = False
        # How long it took to connect: no round trip is longer.
        self.connect_s = 0.0
        # Until when a wait for the body may last, and the timer that looks after it: it
        # is not moved for each wait, but looks again when it was too early.
        self._patience: Patience | None = None
        self._due_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        # Exchanges before this one.
        self.exchanges = 0
        self.idle_since_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it can still carry bytes, as far as is known."""
        return (
            self._transport is not None
            and self._error is None
            and not self._transport.is_closing()
        )

    # What the caller does.

    def send(self, head: bytes, body: bytes, *, has_no_body: bool) -> None:
        """Begin an exchange; of an answer to HEAD nothing follows the headers."""
        assert self._transport is not None  # noqa: S101 - handed out when connected
        self._is_busy, self._has_no_body = True, has_no_body
        self._head, self._headers, self._reason = None, [], b""
        self._is_framed = self.is_complete = self.is_answering = False
        self.is_reusable = False
        self._unparsed_bytes = 0
        # Small bodies in one segment with their head; large ones are not copied.
        if len(body) < HIGH_WATER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def write(self, data: bytes) -> None:
        """Send more of a body that comes in parts."""
        if self._transport is not None and self._error is None:
            self._transport.write(data)

    @property
    def is_write_paused(self) -> bool:
        """Whether more is waiting to be sent than should."""
        return self._is_write_paused

    async def drain(self) -> None:
        """Until the socket takes more, or an answer or the end makes it pointless."""
        while self._is_write_paused and not self.is_answering and self._error is None:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    async def read_head(self) -> Head:
        """The head of the final answer."""
        while self._head is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self._head

    def be_patient(self, patience: Patience) -> None:
        """From now on bound each wait for the body; ReadTimeout if one is longer."""
        self._patience = patience

    async def read_body(self) -> bytes | None:
        """What has arrived of the body, as soon as there is some; None at its end."""
        while not self._chunks:
            if self.is_complete:
                return None
            if self._error is not None:
                raise self._error
            if self._patience is not None:
                self._set_due(self._patience)
            await self._wait()
        chunks = self._chunks
        data = chunks.popleft() if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered_bytes = 0
        if self._is_read_paused:
            self._resume_reading()
        return data

    def finish(self) -> bool:
        """
        End the exchange; True if the connection may carry another.

        What is not at its end is cut off: nobody knows how much would follow, and the
        upstream learns that nobody listens.
        """
        self._is_busy = False
        self._patience = None
        self._chunks.clear()
        self._buffered_bytes = 0
        if self.is_complete and self.is_reusable and self.is_open:
            self.exchanges += 1
            return True
        if self.is_complete and not self._is_write_paused:
            self.close()
        else:
            self.abort()
        return False

    def abort(self) -> None:
        """Close at once, whatever was still to be sent or read."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close in order: nothing more is to be sent or read."""
        if self._transport is not None:
            self._transport.close()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_due(self, patience: Patience) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = min(loop.time() + patience.idle_s, patience.ends_at_s)
        if self._alarm is None:
            self._alarm = loop.call_at(self._due_s, self._on_alarm)
        elif self._alarm.when() > self._due_s:
            self._alarm.cancel()
            self._alarm = loop.call_at(self._due_s, self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        if self._patience is None or self._waiter is None:
            return  # nobody waits; the next wait sets it anew
        loop = asyncio.get_running_loop()
        if loop.time() < self._due_s:
            self._alarm = loop.call_at(self._due_s, self._on_alarm)
            return
        self._fail(httpx.ReadTimeout("the answer stopped"))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _wake_writer(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _resume_reading(self) -> None:
        self._is_read_paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _fail(self, error: httpx.TransportError) -> None:
        """Condemn the connection; the first reason is the one that is told."""
        if self._error is None:
            self._error = error
        self.abort()
        self._wake()
        self._wake_writer()

    # What the event loop does.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_busy or self.is_complete:
            # An answer nobody asked for would be taken for the next one's.
            self._fail(httpx.RemoteProtocolError("bytes that nobody asked for"))
            self._leave_pool()
            return
        self.is_answering = True
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            # A callback's own complaint is in its context, and says more.
            error = self._error or _to_protocol_error(problem)
            if not self.is_complete:
                self._fail(error)
            self.is_reusable = False
        if self._unparsed_bytes > MAX_HEADER_BYTES:
            self._fail(httpx.RemoteProtocolError("the answer's headers have no end"))
        self._wake()

    def eof_received(self) -> None:
        """
        The upstream sends no more; what it left open ends with it, if it may.

        The transport then closes by itself.
        """
        if not self._is_busy:
            self._leave_pool()
            return
        if self._head is not None and not self.is_complete and not self._is_framed:
            self._complete()
        self.is_reusable = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            self._error = (
                httpx.ReadError("the connection was reset")
                if exc is not None
                else httpx.RemoteProtocolError("the upstream closed the connection")
            )
        self.is_reusable = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._wake()
        self._wake_writer()
        if not self._is_busy:
            self._leave_pool()

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        self._wake_writer()

    def _leave_pool(self) -> None:
        self.abort()
        self._on_idle_lost(self)

    # What the parser does.

    def on_message_begin(self) -> None:
        if self.is_complete:
            # A second answer behind the first: one of the two is somebody else's.
            raise httpx.RemoteProtocolError("bytes behind the answer")

    def on_status(self, reason: bytes) -> None:
        # It may come in parts.
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head is not None:
            # A trailer: nothing here needs one, and none may pass for a header.
            return
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            self._error = httpx.RemoteProtocolError("the answer has too many headers")
            raise self._error

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status == _SWITCHING_PROTOCOLS:
                self._error = httpx.RemoteProtocolError("the upstream left HTTP")
                raise self._error
            return
        self._is_framed = _is_framed(self._headers)
        self._unparsed_bytes = 0
        self._head = Head(
            status,
            self._reason,
            self._parser.get_http_version().encode("ascii"),
            self._headers,
        )
        if self._has_no_body:
            # The parser would wait for what its length announces.
            self.is_complete = True

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        self._chunks.append(body)
        self._buffered_bytes += len(body)
        if self._buffered_bytes > HIGH_WATER_BYTES and not self._is_read_paused:
            self._is_read_paused = True
            if self._transport is not None:
                self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._head is None:
            # An interim answer, after which the final one begins anew.
            self._headers, self._reason = [], b""
            return
        if not self.is_complete:
            self.is_reusable = self._parser.should_keep_alive()
            self._complete()

    def _complete(self) -> None:
        self.is_complete = True
        if self._is_read_paused:
            self._resume_reading()


def _is_framed(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the body has an end of its own, not the connection's."""
    is_framed = False
    for name, value in headers:
        lower = name.lower()
        if lower == b"content-length":
            is_framed = True
        elif lower == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                # Read as one thing here and as another by whatever stands between.
                raise httpx.RemoteProtocolError("an unknown transfer encoding")
            is_framed = True
    return is_framed


def _to_protocol_error(problem: Exception) -> httpx.RemoteProtocolError:
    cause = problem.__context__
    if isinstance(cause, httpx.RemoteProtocolError):
        return cause
    return httpx.RemoteProtocolError(f"the answer is not valid HTTP/1.1: {problem}")
