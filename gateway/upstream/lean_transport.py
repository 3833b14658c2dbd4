"""
httpx's transport interface over connections of our own: HTTP/1.1, keep-alive, TLS.

Decision 0010 says why. What it does not do (proxies, HTTP/2) the stock transport does:
`GATEWAY_UPSTREAM_TRANSPORT`.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Coroutine
from pathlib import Path
from typing import TypeVar

import httpx

from gateway.upstream.answer_parser import Head
from gateway.upstream.connection import Connection, Take
from gateway.upstream.limits import Limits
from gateway.upstream.pool import Origin, Pool
from gateway.upstream.sending import (
    MAX_REMEMBERED,
    Incoming,
    Outgoing,
    fixed_headers,
    pour_from,
)

T = TypeVar("T")


class LeanTransport(httpx.AsyncBaseTransport):
    """Calls upstream, at most `max_connections` at once; the others wait in order."""

    def __init__(
        self,
        *,
        max_connections: int,
        idle_s: float,
        uds: Path | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """`trust` is httpx's own unless given: certifi's, or `SSL_CERT_FILE`'s."""
        self._trust = trust
        if os.environ.get("SSL_CERT_FILE"):
            # A wrong one stops the start, and not the first call.
            self.trust()
        self.pool = Pool(
            max_connections=max_connections, idle_s=idle_s, trust=self.trust, uds=uds
        )
        # By URL and whether it streams. 3 us a call less than joining them anew.
        self._heads: dict[tuple[str, bool], tuple[Origin, bytes]] = {}

    def trust(self) -> ssl.SSLContext:
        """What servers are verified with; 90 ms of reading certificates, once."""
        if self._trust is None:
            self._trust = default_trust()
        return self._trust

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request and wait for the head of its answer.

        Raises httpx's transport errors. The body has to be closed: it holds the
        connection and a place.
        """
        timeouts = request.extensions.get("timeout") or {}
        wire = _to_wire(request)

        origin = _origin_of(request.url)
        connection = await self.pool.take(
            origin, pool_s=timeouts.get("pool"), connect_s=timeouts.get("connect")
        )
        try:
            head = await _exchange(connection, request, wire, timeouts)
        except BaseException:
            self.pool.drop(connection)
            raise
        answer = LeanAnswer(self.pool, origin, connection, head)
        return httpx.Response(
            answer.status,
            headers=answer.head.headers,
            stream=_Body(answer, timeouts.get("read")),
            extensions={
                "http_version": b"HTTP/" + answer.head.http_version,
                "reason_phrase": answer.head.reason,
            },
        )

    async def send(self, request: Outgoing, limits: Limits) -> Incoming:
        """The same for an attempt of ours, without httpx's request and response."""
        origin, opening = self._head_of(request)
        lines = [b"content-length: %d\r\n" % len(request.body)]
        for name, value in request.headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        rest = b"".join(lines)
        _refuse_broken_lines(rest, len(request.headers) + 2)
        wire = opening + rest

        pool = self.pool
        connection = pool.take_at_once(origin)
        if connection is None:
            wait_s = limits.connect_s
            taking = pool.take(origin, pool_s=wait_s, connect_s=wait_s)
            connection = await _in_time(limits, taking)
        connection.keep_to(limits)
        try:
            connection.send(wire, request.body, is_whole=True, has_no_body=False)
            if connection.is_write_paused:
                await _in_time(limits, _drain(connection, limits.idle_s))
            head = await connection.read_head()
        except BaseException:
            pool.drop(connection)
            raise
        answer = LeanAnswer(pool, origin, connection, head)
        return answer if answer.is_plain else answer.decoded()

    def _head_of(self, request: Outgoing) -> tuple[Origin, bytes]:
        """Where it goes, and the lines that all calls to there begin with."""
        name = (request.url, request.is_stream)
        known = self._heads.get(name)
        if known is None:
            url = httpx.URL(request.url)
            headers = fixed_headers(is_stream=request.is_stream)
            lines = [b"POST %b HTTP/1.1\r\nhost: %b\r\n" % (url.raw_path, url.netloc)]
            lines += [b"%b: %b\r\n" % header for header in headers]
            if len(self._heads) >= MAX_REMEMBERED:
                self._heads.clear()
            known = self._heads[name] = _origin_of(url), b"".join(lines)
        return known

    async def aclose(self) -> None:
        await self.pool.aclose()


async def _exchange(
    connection: Connection,
    request: httpx.Request,
    wire: bytes,
    timeouts: dict[str, float | None],
) -> Head:
    """
    One exchange up to its head; who has the connection closes it unless that came.

    It is never begun again on another: what was written may have been read, and a
    generation that was begun is paid for.
    """
    content = request.stream
    is_whole = isinstance(content, httpx.ByteStream)
    body = b"".join(content) if isinstance(content, httpx.ByteStream) else b""
    has_no_body = request.method == "HEAD"
    connection.send(wire, body, is_whole=is_whole, has_no_body=has_no_body)
    if not is_whole:
        await _send_parts(connection, request, timeouts.get("write"))
    if connection.is_write_paused:
        await _drain(connection, timeouts.get("write"))
    return await _read_head(connection, timeouts.get("read"))


async def _send_parts(
    connection: Connection, request: httpx.Request, timeout_s: float | None
) -> None:
    """A body that comes in parts, as its headers say: of a length, or in chunks."""
    assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - of an async call
    is_chunked = "transfer-encoding" in request.headers
    async for part in request.stream:
        if part:
            framed = b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part
            connection.write(framed)
        if connection.is_write_paused:
            await _drain(connection, timeout_s)
        if connection.has_head or not connection.is_open:
            # An early answer, most likely a refusal, or the end: the rest is not
            # wanted, and the connection is not used again.
            return
    if is_chunked:
        connection.write(b"0\r\n\r\n")
    connection.end_request()


async def _in_time(limits: Limits, waiting: Awaitable[T]) -> T:
    """What comes before the head, within the head's time."""
    try:
        async with asyncio.timeout_at(min(limits.head_by_s, limits.ends_at_s)):
            return await waiting
    except TimeoutError:
        raise httpx.ReadTimeout("no answer in time") from None


async def _drain(connection: Connection, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await connection.drain()
    except TimeoutError:
        raise httpx.WriteTimeout("the request could not be sent in time") from None


async def _read_head(connection: Connection, timeout_s: float | None) -> Head:
    if timeout_s is None:
        return await connection.read_head()
    try:
        async with asyncio.timeout(timeout_s):
            return await connection.read_head()
    except TimeoutError:
        raise httpx.ReadTimeout("no answer in time") from None


class LeanAnswer:
    """
    Implements `Incoming`; closing it gives connection and place back, once.
    """

    __slots__ = ("_connection", "_origin", "_pool", "head")

    def __init__(
        self, pool: Pool, origin: Origin, connection: Connection, head: Head
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._connection: Connection | None = connection
        self.head = head

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def headers(self) -> httpx.Headers:
        return httpx.Headers(self.head.headers)

    @property
    def is_plain(self) -> bool:
        """Whether the body is what it says, and not compressed."""
        return self.head.encoding in {b"", b"identity"}

    def decoded(self) -> Incoming:
        """The same answer, decompressed."""
        return _DecodedAnswer(self)

    def take_whole(self) -> bytes | None:
        return None if self._connection is None else self._connection.take_whole()

    async def next_chunk(self) -> bytes | None:
        connection = self._connection
        return None if connection is None else await connection.read_body()

    def pour(self, take: Take) -> Coroutine[None, None, None]:
        connection = self._connection
        return _nothing() if connection is None else connection.pour(take)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.finish():
            self._pool.keep(self._origin, connection)
        # After it was kept: whoever waits for the place finds it.
        self._pool.give_place_back()


async def _nothing() -> None:
    """A closed answer has nothing to pour."""


class _DecodedAnswer:
    """A compressed answer, which was not asked for, as httpx reads it."""

    def __init__(self, answer: LeanAnswer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        body = _Body(answer, None)
        response = httpx.Response(self.status, headers=self.headers, stream=body)
        self._body = response.aiter_bytes()

    def take_whole(self) -> bytes | None:
        return None

    async def next_chunk(self) -> bytes | None:
        return await anext(self._body, None)

    async def pour(self, take: Take) -> None:
        await pour_from(self, take)

    def close(self) -> None:
        self._answer.close()


class _Body(httpx.AsyncByteStream):
    """An answer's body as httpx hands it out."""

    def __init__(self, answer: LeanAnswer, read_timeout_s: float | None) -> None:
        self._answer = answer
        self._read_timeout_s = read_timeout_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(self._read_timeout_s):
                chunk = await self._answer.next_chunk()
        except TimeoutError:
            raise httpx.ReadTimeout("the answer stopped") from None
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._answer.close()


def _origin_of(url: httpx.URL) -> Origin:
    is_tls = url.scheme == "https"
    if not is_tls and url.scheme != "http":
        raise httpx.UnsupportedProtocol(f"{url.scheme!r} is not spoken here")
    port = url.port or (443 if is_tls else 80)
    return Origin(url.raw_host.decode("ascii"), port, is_tls)


def _to_wire(request: httpx.Request) -> bytes:
    """Request line and headers; LocalProtocolError if one breaks out of its line."""
    path = request.url.raw_path
    parts = [request.method.encode("ascii"), b" ", path, b" HTTP/1.1\r\n"]
    for name, value in request.headers.raw:
        parts += (name, b": ", value, b"\r\n")
    parts.append(b"\r\n")
    wire = b"".join(parts)
    _refuse_broken_lines(wire, len(request.headers.raw) + 2)
    return wire


def _refuse_broken_lines(wire: bytes, lines: int) -> None:
    if wire.count(b"\n") != lines or wire.count(b"\r") != lines or b"\0" in wire:
        raise httpx.LocalProtocolError("a header's value holds a line break")


def default_trust() -> ssl.SSLContext:
    """certifi's authorities, or `SSL_CERT_FILE`'s; OSError if there are none."""
    try:
        trust = httpx.create_ssl_context()
    except OSError as error:
        # Which of them it was, OpenSSL does not say.
        file = os.environ.get("SSL_CERT_FILE", "")
        raise OSError(error.errno, f"SSL_CERT_FILE={file}: {error.strerror}") from None
    # An upstream that would rather speak HTTP/2 must not be offered it.
    trust.set_alpn_protocols(["http/1.1"])
    return trust
