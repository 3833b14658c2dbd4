"""
The edge of the edge: HTTP/1.1 from a client, parsed by httptools.

httptools sets no bound on a header section and no time for it to arrive. Here what is
not yet a request has a size and a deadline, every refusal is an envelope, every running
request hears that its client has left, and a handler can cut its connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast
from urllib.parse import unquote

import httptools

from gateway.alarm import Alarm
from gateway.errors import (
    GatewayError,
    Header,
    HeadersTooLarge,
    RequestTimedOut,
)
from gateway.flow_control import FlowControl
from gateway.http_cycle import Cycle
from gateway.ids import new_id
from gateway.listening import ServerState, address_of
from gateway.unrouted import MalformedRequest, raw_answer
from gateway.wire import Application, RequestHead

logger = logging.getLogger("gateway.access")

# Browsers and SDKs do not pipeline at all; a queue of tiny requests behind a slow
# answer is memory that a stranger fills.
MAX_PIPELINED: Final = 8

# Who connects asks at once; who only keeps a connection in store loses nothing.
FIRST_BYTE_S: Final = 0.5

# What a callback of ours raises over bytes that are no request.
_CLIENTS_DOING: Final = (httptools.HttpParserError, UnicodeDecodeError)
_UPGRADE_HEADERS: Final = frozenset({b"connection", b"upgrade", b"http2-settings"})


class EdgeBounds(NamedTuple):
    """What a client may take, of a listener that serves `app`."""

    app: Application
    max_header_bytes: int
    header_timeout_s: float
    write_timeout_s: float
    # Between two requests of a connection.
    keep_alive_s: float


class EdgeProtocol:
    """One client connection; event loops ask for its methods and not for a base."""

    def __init__(self, bounds: EdgeBounds, state: ServerState) -> None:
        self._app = bounds.app
        self._bounds = bounds
        self._state = state
        self._max_header_bytes = bounds.max_header_bytes
        self._loop = asyncio.get_running_loop()
        self._parser = self._new_parser()
        self._url = b""
        self._headers: list[Header] = []
        self._fault: GatewayError | None = None
        self._is_long = False
        # Bytes since the last that made a request or a body grow: header lines without
        # an end, trailers, chunk extensions.
        self._unparsed_bytes = 0
        self._has_begun = False
        self._has_ended = True
        self._made_s = self._loop.time()
        # Every request whose answer is not complete.
        self._running: list[Cycle] = []
        self._newest: Cycle | None = None
        # A list, where an empty deque takes 760 bytes.
        self._waiting: list[Cycle] = []
        # The one clock that runs while no request does; with a request in flight the
        # time-outs are its handler's.
        self._overdue: Callable[[], None] | None = None
        self._due_s = 0.0
        self._alarm = Alarm(self._loop, self._due, self._ring)

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What follows a request that asks to close is dropped with the connection; an
        # error would come in place of the answer.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    # What the event loop does.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self.transport = cast(asyncio.Transport, transport)
        self._flow = FlowControl(self.transport)
        self._server = address_of(transport, "sockname")
        self._client = address_of(transport, "peername")
        self._state.connections.add(self)
        self._mind_the_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.connections.discard(self)
        self._stop_clock()
        self._alarm.cancel()
        for cycle in self._running:
            cycle.leave()
        self._flow.resume_writing()
        if exc is None:
            self.transport.close()
        # It holds our methods, and so us: a circle for the collector.
        self._parser = cast(httptools.HttpRequestParser, None)

    def pause_writing(self) -> None:
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        self._flow.resume_writing()

    def eof_received(self) -> None:
        """
        The client will send no more; see decision 0005.

        Half a request is answered; a whole one whose client has closed its side is
        taken for abandoned, because nothing tells the two apart.
        """
        if not self._has_ended:
            self._fault = MalformedRequest("The request broke off before its end.")
            self.refuse()

    def data_received(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        # Else a head that ends in these bytes has begun in them, and fits.
        self._is_long = self._has_begun or len(data) > self._max_header_bytes
        self._feed(data)
        if self._unparsed_bytes > self._max_header_bytes:
            self._fault = self._too_large()
            self.refuse()
        if not self._running:
            self._mind_the_clock()

    def _feed(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if not self._asks_for_upgrade():
                    return
                data = self._without_upgrade() + data[upgrade.args[0] :]
            except httptools.HttpParserError as problem:
                cause = problem.__context__
                if cause is not None and not isinstance(cause, _CLIENTS_DOING):
                    logger.error("reading a request failed", exc_info=cause)
                self.refuse()
                return
            else:
                return

    # What the parser calls back.

    def on_url(self, url: bytes) -> None:
        # It may come in parts.
        self._url += url

    def on_message_begin(self) -> None:
        if self._newest is not None and not self._running:
            # The clock that ran since the last answer. Not that of a new connection,
            # nor for bytes that begin nothing: line breaks keep no connection open.
            self._overdue = None
        self._url, self._headers = b"", []
        self._has_begun, self._has_ended = True, False

    def on_header(self, name: bytes, value: bytes) -> None:
        # Else a trailer: what a proxy in front filters from the headers must not come
        # in behind the body.
        if self._has_begun:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._is_long:
            self._refuse_long_head()
        if self._parser.should_upgrade() and self._asks_for_upgrade():
            return  # httptools now raises HttpParserUpgrade, and we go on without
        self._has_begun = False
        self._unparsed_bytes = 0
        self._overdue = None
        if len(self._waiting) >= MAX_PIPELINED:
            self.transport.abort()
            return
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        """Its head is complete: have it answered, after those before it."""
        parser, earlier = self._parser, self._newest
        version = parser.get_http_version()
        # Its members are None where there is none, whatever httptools declares.
        url = cast(Any, httptools.parse_url(self._url))
        raw_path: bytes = url.path or b"/"
        path = raw_path.decode("ascii")
        head = RequestHead(
            parser.get_method().decode("ascii"),
            version,
            unquote(path) if "%" in path else path,
            raw_path,
            url.query or b"",
            self._headers,
            self._client,
            self._server,
        )
        cycle = self._newest = Cycle(
            head,
            self.transport,
            self._flow,
            default_headers=self._state.default_headers,
            keep_alive=(
                version != "1.0"
                and parser.should_keep_alive()
                and not self._state.is_leaving
            ),
            write_timeout_s=self._bounds.write_timeout_s,
            on_complete=self.on_response_complete,
        )
        self._running.append(cycle)
        if earlier is None or earlier.response_complete:
            self._start(cycle)
        else:
            self._flow.pause_reading()
            self._waiting.append(cycle)

    def _start(self, cycle: Cycle) -> None:
        tasks = self._state.tasks
        task = cycle.task = self._loop.create_task(cycle.run(self._app, tasks))
        tasks.add(task)

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        if self._newest is not None and not self._newest.response_complete:
            self._newest.add_body(body)

    def on_message_complete(self) -> None:
        if self._has_begun:
            return  # an upgrade that is about to be parsed again
        self._has_ended = True
        self._unparsed_bytes = 0
        if not self._running:
            self._stop_clock()
        if self._newest is not None and not self._newest.response_complete:
            self._newest.end_body()

    def on_response_complete(self) -> None:
        if len(self._running) == 1 and self._running[0].response_complete:
            self._running.clear()
        else:
            self._running = [c for c in self._running if not c.response_complete]
        if self.transport.is_closing():
            self._close()
            return
        self._flow.resume_reading()
        if self._waiting:
            self._start(self._waiting.pop(0))
        elif not self._running:
            self._mind_the_clock()

    def make_newest_last(self) -> None:
        """Take no request here after the one that runs."""
        if self._newest is not None:
            self._newest.keep_alive = False

    def close_if_idle(self) -> None:
        """Take no more requests here, but those that are on their way."""
        if not self._running and not self.is_being_asked():
            self.transport.close()

    def is_being_asked(self) -> bool:
        """Whether a request is arriving, or may be since the connection is new."""
        if self._running or self.transport.is_closing():
            return False
        if self._newest is None and not self._unparsed_bytes:
            return self._loop.time() < self._made_s + FIRST_BYTE_S
        return self._has_begun

    def _asks_for_upgrade(self) -> bool:
        # A CONNECT always counts as one and is refused like any unknown method.
        parser = self._parser
        return parser.should_upgrade() and parser.get_method() != b"CONNECT"

    def _without_upgrade(self) -> bytes:
        """
        The head of this request as if it had not asked for another protocol.

        `curl --http2` and Java's client ask for h2c on every cleartext request and are
        content with HTTP/1.1, but httptools skips the body of a request that asks.
        """
        method, version = self._parser.get_method(), self._parser.get_http_version()
        kept = [pair for pair in self._headers if pair[0] not in _UPGRADE_HEADERS]
        lines = b"".join([b"%b: %b\r\n" % pair for pair in kept])
        self._parser = self._new_parser()
        self._unparsed_bytes = 0
        start = b"%b %b HTTP/%b\r\n" % (method, self._url, version.encode("ascii"))
        return start + lines + b"\r\n"

    def _refuse_long_head(self) -> None:
        framing = len(b": \r\n")
        lines = sum(len(name) + len(value) + framing for name, value in self._headers)
        if len(self._url) + lines > self._max_header_bytes:
            self._fault = self._too_large()
            # Ends the parse; the 400 it asks for becomes the fault's answer.
            raise httptools.HttpParserError("header section too large")

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"The request's headers are larger than {self._max_header_bytes} bytes."
        )

    def _mind_the_clock(self) -> None:
        """While no request runs, something is always waited for, and not for ever."""
        if self._running or self._overdue is not None or self.transport.is_closing():
            return
        if self._has_begun or (self._has_ended and self._newest is None):
            self._start_clock(self._bounds.header_timeout_s, self._header_time_is_up)
        elif not self._has_ended:
            # The answer is out, its request is not at its end, and nobody reads it.
            self._start_clock(self._bounds.header_timeout_s, self._close)
        else:
            # Idle, or with stray line breaks only.
            self._start_clock(self._bounds.keep_alive_s, self._close)

    def _start_clock(self, after_s: float, overdue: Callable[[], None]) -> None:
        self._overdue = overdue
        self._due_s = self._loop.time() + after_s
        self._alarm.set(self._due_s)

    def _stop_clock(self) -> None:
        self._overdue = None

    def _due(self) -> float | None:
        return None if self._overdue is None else self._due_s

    def _ring(self) -> None:
        overdue, self._overdue = self._overdue, None
        if overdue is not None:
            overdue()

    def _header_time_is_up(self) -> None:
        if not self._unparsed_bytes:
            # Nothing was asked, so nothing is answered: a connection opened in advance.
            self._close()
            return
        self._fault = RequestTimedOut("The request's headers did not arrive in time.")
        self.refuse()

    def refuse(self) -> None:
        """Answer what never became a request, in the form of every other error."""
        if self.transport.is_closing():
            return
        if not (self._running or self._has_begun or self._has_ended):
            # Of a request that has its answer already: a second one would be taken for
            # the next one's.
            self._close()
            return
        if self._running:
            newest = self._running[-1]
            if len(self._running) > 1 or newest.response_started:
                # An answer is on its way: bytes of a second one would corrupt it.
                self._close()
                return
            # A body that cannot be read. Its handler learns that the client is gone,
            # and whatever it still answers is dropped.
            newest.leave()
        error = self._fault or MalformedRequest("The request is not valid HTTP/1.1.")
        request_id = "req_" + new_id()
        # These bytes never became a request, so no access line will tell of them.
        facts = {
            "request_id": request_id,
            "status": error.http_status,
            "error_code": error.error_code,
        }
        logger.info("refused before routing", extra={"facts": facts})
        self.transport.write(raw_answer(error, request_id))
        self._close()

    def _close(self) -> None:
        """
        Close once what was written has been read, or given up.

        Closing alone waits for the client to read, which it can draw out for ever.
        """
        self.transport.close()
        self._loop.call_later(self._bounds.write_timeout_s, self.transport.abort)
