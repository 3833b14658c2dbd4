"""
One POST on a connection of its own, and of the answer its head.

Not the upstream's connections: those are kept, belong to one origin, and hand bodies to
readers. A receiver is a stranger who may answer anything, or for ever.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from typing import Final, cast

import httptools
import msgspec

from gateway import __version__
from gateway.envelope import Header

MAX_HEAD_BYTES: Final = 64 * 1024
# Read, so that a receiver can finish what it says and logs no reset; and dropped.
MAX_BODY_BYTES: Final = 64 * 1024

_SWITCHING_PROTOCOLS: Final = 101
_NAME_FORM: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE_FORM: Final = re.compile(rb"[\t -~\x80-\xff]*")
# What frames the request, or says whom it is for, is ours to say.
_OURS: Final = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"expect"}
)


class Head(msgspec.Struct, frozen=True):
    """What an answer says before its body; names in lower case."""

    status: int
    headers: dict[str, str]


class Exchange(asyncio.Protocol):
    """`send`, then `until_answered`; whoever made it aborts it, however that ended."""

    def __init__(self) -> None:
        self.head: Head | None = None
        # What came was no HTTP, as opposed to nothing.
        self.is_garbled = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        # Of the head, and then of what follows it.
        self._heard_bytes = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None

    def send(self, wire: bytes) -> None:
        # Nobody waits until all is written: a refusal may come before that.
        assert self._transport is not None  # noqa: S101 - handed out when connected
        self._transport.write(wire)

    async def until_answered(self) -> None:
        """Until the answer is here, or as much of it as will be taken."""
        await self._ended

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # What the event loop does.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._ended.done():
            return
        self._heard_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.is_garbled = self.head is None
            self._end()
        if self.head is None and self._heard_bytes > MAX_HEAD_BYTES:
            self.is_garbled = True
            self._end()
        elif self._heard_bytes > MAX_HEAD_BYTES + MAX_BODY_BYTES:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    # What the parser calls back.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self.head is not None:
            # A second answer, behind the one that was asked for.
            return
        status = self._parser.get_status_code()
        if status == _SWITCHING_PROTOCOLS or not 100 <= status <= 599:
            raise ValueError("a status that nobody asked for")
        if status < 200:
            # RFC 9110, 15.2: the final answer follows.
            self._headers = {}
            return
        self.head = Head(status, self._headers)
        # From here on the body's share.
        self._heard_bytes = MAX_HEAD_BYTES

    def on_message_complete(self) -> None:
        if self.head is not None:
            self._end()


def to_wire(authority: str, path: str, headers: Iterable[Header], body: bytes) -> bytes:
    """The request; ValueError for headers that could not be sent as they are."""
    lines = [
        b"POST %b HTTP/1.1" % path.encode("ascii"),
        b"host: " + authority.encode("ascii"),
        b"content-length: %d" % len(body),
        b"connection: close",
    ]
    names = set()
    for name, value in headers:
        if not (_NAME_FORM.fullmatch(name) and _VALUE_FORM.fullmatch(value)):
            raise ValueError("a header of this form cannot be sent")
        if name.lower() in _OURS:
            raise ValueError(f"the header {name.decode('ascii')} is not the caller's")
        names.add(name.lower())
        lines.append(name + b": " + value)
    if b"user-agent" not in names:
        lines.append(b"user-agent: llmtune-gateway/" + __version__.encode("ascii"))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
