"""
An upstream that streams, and stamps each event with the time it is written.

    python -m benchmarks.upstream_stream LISTENING_FD

On LLMTune's inference route it answers with small objects, `{"token": "..."}`, and on
OpenAI's with chunks. A stream's first event is written at once and the next ones every
20 ms, in one of 20 slots of a wheel, so that streams are spread over the interval. An
event's text is `t` and CLOCK_MONOTONIC in ns, which survives any translation; the
prompt says how many events there are: `events=N`.
"""

from __future__ import annotations

import re
import socket
import sys
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from benchmarks.poller import READ, Poller, stop_collecting
from benchmarks.requests import MODEL

INTERVAL_NS: Final = 20_000_000
SLOTS: Final = 20
_SLOT_NS: Final = INTERVAL_NS // SLOTS
_MOST_LATE_NS: Final = 3 * INTERVAL_NS
_BACKLOG: Final = 4096
# In place of the events left: the end is written, and may yet have to be pushed out.
_ENDED: Final = -1

_EVENTS: Final = re.compile(rb"events=([0-9]+)")
_LENGTH: Final = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)

_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
# Nineteen digits: of fixed width, so that a chunk's size is known before its stamp.
_STAMP: Final = b"t%019d "
_USAGE: Final = (
    b'"usage":{"prompt_tokens":10,"completion_tokens":100,"total_tokens":110}'
)


class Form(NamedTuple):
    """One route's events, as chunks of a chunked body; `event` lacks its stamp."""

    event: bytes
    end: bytes


def _chunk(payload: bytes) -> bytes:
    size = len(payload.replace(_STAMP, _STAMP % 0))
    return b"%x\r\n%s\r\n" % (size, payload)


def _openai_event(delta: bytes, finish: bytes) -> bytes:
    return (
        b'data: {"id":"chatcmpl-benchmark","object":"chat.completion.chunk",'
        b'"created":1700000000,"model":"%s","choices":[{"index":0,"delta":%s,'
        b'"finish_reason":%s}]' % (MODEL.encode(), delta, finish)
    )


_DONE: Final = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
INFERENCE: Final = Form(
    _chunk(b'data: {"token":"' + _STAMP + b'"}\n\n'),
    _chunk(b'data: {"done":true,' + _USAGE + b"}\n\n") + _DONE,
)
OPENAI: Final = Form(
    _chunk(_openai_event(b'{"content":"@"}', b"null").replace(b"@", _STAMP) + b"}\n\n"),
    _chunk(_openai_event(b"{}", b'"stop"') + b"," + _USAGE + b"}\n\n") + _DONE,
)


class Connection:
    """One keep-alive connection of a gateway, with at most one stream at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.received = b""
        self.form = INFERENCE
        self.left = 0
        # What the peer had no room for; in order before anything new.
        self.unsent = b""
        self.is_open = True

    def send(self, data: bytes) -> None:
        """Write, or keep what does not fit: an event is late then, and never lost."""
        if self.unsent:
            data = self.unsent + data
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.is_open = False
            return
        self.unsent = data[sent:]


class Upstream:
    """The listener, its connections and the wheel."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poller = Poller()
        self._poller.watch(listener.fileno(), READ)
        self._connections: dict[int, Connection] = {}
        self._wheel: list[list[Connection]] = [[] for _ in range(SLOTS)]

    def serve(self) -> None:
        """Turn the wheel for ever, and read between its slots."""
        now_ns = time.monotonic_ns
        next_slot_ns, slot = now_ns(), 0
        while True:
            for fd, _ in self._poller.ready((next_slot_ns - now_ns()) / 1e9):
                if fd == self._listener.fileno():
                    self._accept()
                else:
                    self._read(self._connections[fd], slot)
            # One slot, also when late: what is asked meanwhile must not wait for ever.
            if now_ns() >= next_slot_ns:
                self._wheel[slot] = self._turn(self._wheel[slot], now_ns)
                slot = (slot + 1) % SLOTS
                # Late events are made up for, but not for long: a window would else get
                # more than its own.
                next_slot_ns = max(next_slot_ns + _SLOT_NS, now_ns() - _MOST_LATE_NS)

    @staticmethod
    def _turn(due: list[Connection], now_ns: Callable[[], int]) -> list[Connection]:
        """One event for each stream of a slot; those that go on."""
        going_on = []
        for stream in due:
            if not stream.is_open:
                continue
            if stream.left > 0:
                stream.left -= 1
                stream.send(stream.form.event % now_ns())
                going_on.append(stream)
                continue
            stream.send(stream.form.end if stream.left == 0 else b"")
            stream.left = _ENDED
            if stream.unsent:
                going_on.append(stream)
        return going_on

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections[accepted.fileno()] = Connection(accepted)
            self._poller.watch(accepted.fileno(), READ)

    def _read(self, connection: Connection, slot: int) -> None:
        try:
            data = connection.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            fd = connection.socket.fileno()
            connection.is_open = False
            self._poller.forget(fd)
            del self._connections[fd]
            connection.socket.close()
            return
        connection.received += data
        head, end, body = connection.received.partition(b"\r\n\r\n")
        if end and _is_whole(head, body):
            connection.received = b""
            self._answer(connection, head, body, slot)

    def _answer(
        self, connection: Connection, head: bytes, body: bytes, slot: int
    ) -> None:
        asked = _EVENTS.search(body)
        if asked is None:
            connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            return
        is_inference = b"/inference " in head.split(b"\r\n", 1)[0]
        connection.form = INFERENCE if is_inference else OPENAI
        connection.left = int(asked[1]) - 1
        connection.send(_HEAD + connection.form.event % time.monotonic_ns())
        # The slot before the one that is due comes last: a whole interval from now.
        self._wheel[slot - 1].append(connection)


def _is_whole(head: bytes, body: bytes) -> bool:
    length = _LENGTH.search(head)
    # Without a length it comes in chunks, as a proxy may pass it on.
    return len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")


def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.listen(_BACKLOG)
    listener.setblocking(False)
    upstream = Upstream(listener)
    stop_collecting()
    upstream.serve()


if __name__ == "__main__":
    main()
