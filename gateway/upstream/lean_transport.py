"""
httpx's transport interface over connections of our own: HTTP/1.1, keep-alive, TLS.

Decision 0010 says why. What it does not do (proxies, HTTP/2) the stock transport does:
`GATEWAY_UPSTREAM_TRANSPORT`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx

from gateway.upstream.answer_parser import Head
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Origin, Pool

# An extension of our own: `Patience` with the body, so that its reader needs no clock
# of its own for each piece. A transport that has it says so in the response's.
PATIENCE: Final = "llmtune.patience"


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
        self.pool = Pool(
            max_connections=max_connections,
            idle_s=idle_s,
            trust=trust or _default_trust(),
            uds=uds,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request and wait for the head of its answer.

        Raises httpx's transport errors. The body has to be closed: it holds the
        connection and a place.
        """
        origin = _origin_of(request.url)
        timeouts = request.extensions.get("timeout") or {}
        wire = _to_wire(request)
        await self.pool.take_place(timeouts.get("pool"))
        try:
            connection = self.pool.take_idle(origin)
            if connection is None:
                connection = await self.pool.connect(origin, timeouts.get("connect"))
            head = await _exchange(connection, request, wire, timeouts)
        except BaseException:
            self.pool.give_place_back()
            raise
        patience = request.extensions.get(PATIENCE)
        if patience is not None:
            connection.be_patient(patience)
        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=_Body(self.pool, origin, connection, timeouts.get("read")),
            extensions={
                "http_version": b"HTTP/" + head.http_version,
                "reason_phrase": head.reason,
                PATIENCE: patience,
            },
        )

    async def aclose(self) -> None:
        await self.pool.aclose()


async def _exchange(
    connection: Connection,
    request: httpx.Request,
    wire: bytes,
    timeouts: dict[str, float | None],
) -> Head:
    """
    One exchange up to its head; the connection is closed unless that came.

    It is never begun again on another: what was written may have been read, and a
    generation that was begun is paid for.
    """
    content = request.stream
    is_whole = isinstance(content, httpx.ByteStream)
    body = b"".join(content) if isinstance(content, httpx.ByteStream) else b""
    has_no_body = request.method == "HEAD"
    try:
        connection.send(wire, body, is_whole=is_whole, has_no_body=has_no_body)
        if not is_whole:
            await _send_parts(connection, request, timeouts.get("write"))
        if connection.is_write_paused:
            await _drain(connection, timeouts.get("write"))
        return await _read_head(connection, timeouts.get("read"))
    except BaseException:
        connection.finish()
        connection.abort()
        raise


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


class _Body(httpx.AsyncByteStream):
    """An answer's body; closing it gives connection and place back, once."""

    def __init__(
        self,
        pool: Pool,
        origin: Origin,
        connection: Connection,
        read_timeout_s: float | None,
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._connection: Connection | None = connection
        self._read_timeout_s = read_timeout_s

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        connection = self._connection
        if connection is None:
            raise StopAsyncIteration
        if self._read_timeout_s is None:
            chunk = await connection.read_body()
        else:
            chunk = await self._read_in_time(connection, self._read_timeout_s)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def _read_in_time(
        self, connection: Connection, timeout_s: float
    ) -> bytes | None:
        try:
            async with asyncio.timeout(timeout_s):
                return await connection.read_body()
        except TimeoutError:
            raise httpx.ReadTimeout("the answer stopped") from None

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if connection.finish():
            self._pool.keep(self._origin, connection)
        # After it was kept: whoever waits for the place finds it.
        self._pool.give_place_back()


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
    lines = len(request.headers.raw) + 2
    if wire.count(b"\n") != lines or wire.count(b"\r") != lines or b"\0" in wire:
        raise httpx.LocalProtocolError("a header's value holds a line break")
    return wire


def _default_trust() -> ssl.SSLContext:
    trust = httpx.create_ssl_context()
    # An upstream that would rather speak HTTP/2 must not be offered it.
    trust.set_alpn_protocols(["http/1.1"])
    return trust
