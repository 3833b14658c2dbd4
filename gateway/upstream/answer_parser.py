"""
Answers from bytes, one after the other: heads, bodies, and what bounds them. No I/O.

httptools parses, strictly: folded headers, bare line feeds, two lengths, or a length
beside chunks are errors. What it leaves to its user is here: bounds, interim answers,
bodies that end with the connection, and bytes behind an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httptools
import httpx

# Of headers, and of trailers; twice what any server sends.
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 256

_SWITCHING_PROTOCOLS: Final = 101

_FRAMING_NAMES: Final = (b"content-length", b"content-encoding", b"transfer-encoding")
_FRAMING_LENGTHS: Final = frozenset(map(len, _FRAMING_NAMES))


class Head:
    """What an answer says before its body."""

    __slots__ = ("encoding", "headers", "http_version", "reason", "status")

    def __init__(
        self,
        status: int,
        reason: bytes,
        http_version: bytes,
        headers: list[tuple[bytes, bytes]],
        encoding: bytes = b"",
    ) -> None:
        # Of the content; empty if nothing is said of it.
        self.encoding = encoding
        self.status = status
        self.reason = reason
        self.http_version = http_version
        self.headers = headers


class AnswerParser:
    """Call `begin` for each answer, then `feed` until `is_complete`."""

    __slots__ = (
        "_has_no_body",
        "_headers",
        "_is_framed",
        "_parser",
        "_reason",
        "_trailer_bytes",
        "_trailers",
        "_unparsed_bytes",
        "head",
        "is_complete",
        "is_keep_alive",
        "on_data",
    )

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        """`on_data` hears each piece of a body."""
        self._parser = httptools.HttpResponseParser(self)
        self.on_data = on_data
        self.begin(has_no_body=False)

    def begin(self, *, has_no_body: bool) -> None:
        """Another answer is due; to HEAD, nothing follows its headers."""
        # The final answer's; interim ones are passed over.
        self.head: Head | None = None
        self.is_complete = False
        # Whether the connection may carry another exchange.
        self.is_keep_alive = False
        self._has_no_body = has_no_body
        self._is_framed = False
        self._reason = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._trailers = self._trailer_bytes = 0
        # Bytes since the last that made a head or a body grow.
        self._unparsed_bytes = 0

    def feed(self, data: bytes) -> None:
        """
        Parse what has arrived; RemoteProtocolError if it is no answer.

        After that, or bytes behind the answer, no other may be read.
        """
        self._unparsed_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as problem:
            self.is_keep_alive = False
            if not self.is_complete:
                raise _to_protocol_error(problem) from None
        if self._unparsed_bytes > MAX_HEADER_BYTES:
            raise httpx.RemoteProtocolError("the answer's headers have no end")

    def end(self) -> None:
        """The connection has ended, and with it a body that has no other end."""
        self.is_keep_alive = False
        if self.head is not None and not self._is_framed:
            self.is_complete = True

    # What the parser calls back.

    def on_message_begin(self) -> None:
        if self.is_complete:
            # A second answer behind the first: one of the two is somebody else's.
            raise httpx.RemoteProtocolError("bytes behind the answer")

    def on_status(self, reason: bytes) -> None:
        # It may come in parts.
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.head is None:
            self._headers.append((name, value))
            return
        # A trailer: nothing here needs one, and none may pass for a header.
        self._trailers += 1
        self._trailer_bytes += len(name) + len(value) + len(b": \r\n")
        if self._trailers > MAX_HEADERS or self._trailer_bytes > MAX_HEADER_BYTES:
            raise httpx.RemoteProtocolError("the answer has too many trailers")

    def on_headers_complete(self) -> None:
        self._refuse_long_head()
        status = self._parser.get_status_code()
        if status < 200:
            # RFC 9110, 15.2: the final answer follows; a switch is what nobody asked.
            if status == _SWITCHING_PROTOCOLS or status < 100:
                raise httpx.RemoteProtocolError("the upstream left HTTP")
            return
        self._is_framed, encoding = _framing(self._headers)
        self._unparsed_bytes = 0
        version = self._parser.get_http_version().encode("ascii")
        self.head = Head(status, self._reason, version, self._headers, encoding)
        if self._has_no_body:
            # The parser would wait for what its length announces.
            self.is_complete = True

    def _refuse_long_head(self) -> None:
        headers = self._headers
        is_long = self._unparsed_bytes > MAX_HEADER_BYTES  # else it cannot be
        if is_long:
            sizes = (len(name) + len(value) + len(b": \r\n") for name, value in headers)
            is_long = sum(sizes) > MAX_HEADER_BYTES
        if is_long or len(headers) > MAX_HEADERS:
            raise httpx.RemoteProtocolError("the answer has too many headers")

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        self.on_data(body)

    def on_message_complete(self) -> None:
        if self.head is None:
            # An interim answer, after which the final one begins anew.
            self._headers, self._reason = [], b""
        elif not self.is_complete:
            self.is_keep_alive = self._parser.should_keep_alive()
            self.is_complete = True


def _framing(headers: list[tuple[bytes, bytes]]) -> tuple[bool, bytes]:
    """Whether the body has an end of its own, not the connection's; its encoding."""
    is_framed, encoding = False, b""
    for name, value in headers:
        # Most are told apart by their length alone.
        if len(name) not in _FRAMING_LENGTHS:
            continue
        lower = name.lower()
        if lower == b"content-length":
            is_framed = True
        elif lower == b"content-encoding":
            encoding = value.strip().lower()
        elif lower == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                # Read as one thing here and as another by whatever stands between.
                raise httpx.RemoteProtocolError("an unknown transfer encoding")
            is_framed = True
    return is_framed, encoding


def _to_protocol_error(problem: Exception) -> httpx.RemoteProtocolError:
    # A callback's own complaint says more than that there was one.
    cause = problem.__context__
    if isinstance(cause, httpx.RemoteProtocolError):
        return cause
    return httpx.RemoteProtocolError(f"the answer is not valid HTTP/1.1: {problem}")
