"""
One HTTP/1.1 connection to the upstream: a request out, an answer in, one at a time.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import Final, TypeAlias, cast

import httpx

from gateway.alarm import Alarm
from gateway.upstream.answer_parser import AnswerParser, Head
from gateway.upstream.limits import Limits

# A reader that is slower than its upstream lets so much wait here before the upstream
# is made to wait: a few hundred events. What is in flight may come on top of it.
HIGH_WATER_BYTES: Final = 64 * 1024

# Where the upstream cannot be made to wait: far more than waits where it can.
_MOST_UNPAUSED_BYTES: Final = 8 * 1024 * 1024

# How long an overdue body may still be on its way through our own event loop.
_GRACE_S: Final = 0.01


# What takes a piece of a body, and says whether it wants the next.
Take: TypeAlias = Callable[[bytes], bool]


class Connection(asyncio.Protocol):
    """
    A connection that carries one exchange after another.

    `send`, then `read_head`, then `read_body` until it is None; whoever stops earlier
    closes it. Errors are httpx's, and each condemns the connection.
    """

    def __init__(self, on_idle_lost: Callable[[Connection], None]) -> None:
        """`on_idle_lost` hears of an end, or of stray bytes, between two exchanges."""
        self._loop = asyncio.get_running_loop()
        self._on_idle_lost = on_idle_lost
        self._answer = AnswerParser(self._take)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._error: httpx.TransportError | None = None
        # Whether more is waiting to be sent than should.
        self.is_write_paused = False
        self._is_read_paused = False
        # Of the exchange that runs.
        self._is_busy = False
        self._is_request_ended = False
        # A list, where an empty deque takes 760 bytes.
        self._chunks: list[bytes] = []
        # Who takes it as it comes, and why that failed.
        self._pouring: Take | None = None
        self._pour_failure: Exception | None = None
        self._heard_s = 0.0
        self._buffered_bytes = 0
        # Until when a wait for the body may last.
        self._limits: Limits | None = None
        self._due_s = 0.0
        self._alarm = Alarm(self._loop, self._due, self._overdue, grace_s=_GRACE_S)
        self._readable: select.poll | None = None
        # uvloop drops what it has not decrypted yet when an end comes to a TLS
        # connection whose reading is paused, so there its reader has a bound instead.
        self._is_tls = False
        self._can_pause = True
        self.idle_since_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it can still carry bytes, as far as is known."""
        return (
            self._transport is not None
            and self._error is None
            and not self._transport.is_closing()
        )

    @property
    def is_quiet(self) -> bool:
        """
        Whether nothing lies unread in the socket: neither its end nor stray bytes.

        What came since the event loop last looked would else meet the next request.
        """
        return self._readable is None or not self._readable.poll(0)

    @property
    def has_head(self) -> bool:
        return self._answer.head is not None

    # What the caller does.

    def tls(self) -> ssl.SSLObject | None:
        """What was agreed on in its handshake."""
        return self._transport.get_extra_info("ssl_object") if self._transport else None

    def send(
        self, head: bytes, body: bytes, *, is_whole: bool, has_no_body: bool
    ) -> None:
        """
        Begin an exchange; of an answer to HEAD nothing follows the headers.

        A body that is not whole goes on with `write`, and ends with `end_request`.
        """
        assert self._transport is not None  # noqa: S101 - handed out when connected
        self._is_busy, self._is_request_ended = True, is_whole
        self._answer.begin(has_no_body=has_no_body)
        # Small bodies in one segment with their head; large ones are not copied.
        if len(body) < HIGH_WATER_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def write(self, data: bytes) -> None:
        """Send more of a body that comes in parts."""
        if self._transport is not None and self._error is None:
            self._transport.write(data)

    def end_request(self) -> None:
        """All of a body that came in parts was sent."""
        self._is_request_ended = True

    async def drain(self) -> None:
        """Until the socket takes more, or an answer or the end makes it pointless."""
        while self.is_write_paused and not self.has_head and self._error is None:
            self._drained = self._loop.create_future()
            await self._drained

    async def read_head(self) -> Head:
        """The head of the final answer; ReadTimeout if its limits say so."""
        limits = self._limits
        while self._answer.head is None:
            if self._error is not None:
                raise self._error
            if limits is not None:
                self._set_due(min(limits.head_by_s, limits.ends_at_s))
            await self._wait()
        return self._answer.head

    def keep_to(self, limits: Limits) -> None:
        """From now on bound each wait for the answer; ReadTimeout if one is longer."""
        self._limits = limits

    def take_whole(self) -> bytes | None:
        """What is left of the body, if all of it is here: most small ones are."""
        if not self._answer.is_complete or self._error is not None:
            return None
        return self._next_chunks()

    async def read_body(self) -> bytes | None:
        """What has arrived of the body, as soon as there is some; None at its end."""
        limits = self._limits
        while not self._chunks:
            if self._answer.is_complete:
                return None
            if self._error is not None:
                raise self._error
            if limits is not None:
                self._put_off(limits)
            await self._wait()
        # A reader that is slower than its upstream never waits for it.
        if (
            limits is not None
            and not self._answer.is_complete
            and (self._loop.time() >= limits.ends_at_s)
        ):
            raise httpx.ReadTimeout("the answer took too long")
        return self._next_chunks()

    def _next_chunks(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered_bytes = 0
        if self._is_read_paused:
            self._resume_reading()
        return data

    async def pour(self, take: Take) -> None:
        """
        Hand each piece of the body to `take` where it arrives, without a task switch,
        until it says no, raises, or nothing more comes.

        A wake-up of the reader for each piece would cost 9 us of it.
        """
        while self._chunks:
            if not take(self._next_chunks()):
                return
        if self._answer.is_complete or self._error is not None:
            return  # for `read_body` to say
        self._pouring = take
        # Straight from the parser: 1 us less for each piece.
        self._answer.on_data = self._pour_out
        if self._limits is not None:
            self._put_off(self._limits)
        self._heard_s = self._loop.time()
        try:
            await self._wait()
        finally:
            self._stop_pouring()
        failure, self._pour_failure = self._pour_failure, None
        if failure is not None:
            raise failure

    def _pour_out(self, body: bytes) -> None:
        try:
            if self._pouring is None or self._pouring(body):
                return
        except Exception as failure:  # noqa: BLE001 - raised where the reader waits
            self._pour_failure = failure
        self._stop_pouring()
        self._wake()

    def _stop_pouring(self) -> None:
        self._pouring = None
        self._answer.on_data = self._take

    def finish(self) -> bool:
        """
        End the exchange; True if the connection may carry another.

        What is not at its end is cut off: nobody knows how much would follow, and the
        upstream learns that nobody listens.
        """
        self._is_busy = False
        self._limits = None
        self._chunks.clear()
        self._buffered_bytes = 0
        answer, transport = self._answer, self._transport
        if (
            answer.is_complete
            and answer.is_keep_alive
            and self.is_open
            and transport is not None
            # An early answer leaves a request half-sent: its rest would be read as the
            # beginning of the next one.
            and self._is_request_ended
            and not transport.get_write_buffer_size()
        ):
            return True
        self.abort()
        return False

    def abort(self) -> None:
        """
        Close at once, whatever was still to be sent or read.

        In order it would wait for its peer to read, or to say goodbye over TLS, as a
        connection that nobody counts any more.
        """
        if self._transport is not None:
            self._transport.abort()

    def cut(self) -> None:
        """End the exchange, and the connection with it."""
        self.finish()
        self.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _put_off(self, limits: Limits) -> None:
        """Something was heard: the next wait may be as long as any."""
        idle_until_s = self._loop.time() + limits.idle_s
        self._set_due(min(idle_until_s, limits.ends_at_s))

    def _set_due(self, due_s: float) -> None:
        self._due_s = due_s
        self._alarm.set(due_s)

    def _due(self) -> float | None:
        limits, waiter = self._limits, self._waiter
        if limits is None or waiter is None or waiter.done():
            return None
        if self._pouring is not None:
            return min(self._heard_s + limits.idle_s, limits.ends_at_s)
        return self._due_s

    def _overdue(self) -> None:
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
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        is_of_uvloop = type(transport).__module__ == "uvloop.loop"
        self._can_pause = not (self._is_tls and is_of_uvloop)
        found = transport.get_extra_info("socket")
        if found is not None:
            self._readable = select.poll()
            self._readable.register(found.fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if not self._is_busy or self._answer.is_complete:
            # An answer nobody asked for would be taken for the next one's.
            self._fail(httpx.RemoteProtocolError("bytes that nobody asked for"))
            self._on_idle_lost(self)
            return
        try:
            self._answer.feed(data)
        except httpx.RemoteProtocolError as error:
            self._fail(error)
        if self._buffered_bytes > _MOST_UNPAUSED_BYTES and not self._can_pause:
            self._fail(httpx.ReadError("the answer came faster than it was read"))
        if self._pouring is not None:
            # Only noted: the alarm reckons with it when it rings.
            self._heard_s = self._loop.time()
            if self._error is None and not self._answer.is_complete:
                return
        self._tell_progress()

    def _tell_progress(self) -> None:
        if self._answer.is_complete and self._is_read_paused:
            # Or its end would not be noticed while it is idle.
            self._resume_reading()
        self._wake()
        if self._drained is not None and self.has_head:
            self._wake_writer()

    def eof_received(self) -> None:
        """
        The upstream sends no more; what it left open ends with it, if it may.

        The transport then closes by itself.
        """
        if not self._is_busy:
            self._leave_pool()
            return
        self._answer.end()
        if not self._answer.is_complete and not self._is_tls:
            # At once: with bytes left to send, the transport would try that first.
            error = httpx.RemoteProtocolError("the upstream closed the connection")
            self._fail(error)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._error is None:
            self._error = (
                httpx.ReadError("the connection was reset")
                if exc is not None
                else httpx.RemoteProtocolError("the upstream closed the connection")
            )
        self._alarm.cancel()
        self._wake()
        self._wake_writer()
        if not self._is_busy:
            self._leave_pool()

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        self._wake_writer()

    def _leave_pool(self) -> None:
        self.abort()
        self._on_idle_lost(self)

    def _take(self, body: bytes) -> None:
        """A piece of the body, from the parser."""
        self._chunks.append(body)
        self._buffered_bytes += len(body)
        is_too_much = self._buffered_bytes > HIGH_WATER_BYTES and self._can_pause
        if is_too_much and not self._is_read_paused and self._transport is not None:
            self._is_read_paused = True
            self._transport.pause_reading()
