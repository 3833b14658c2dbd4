"""
httpx's transport interface over connections of our own: HTTP/1.1, keep-alive, TLS.

httpx's stock transport costs a core 2 ms a call under load, most of it in httpcore's
pool; this one costs 60 us. What it does not do (proxies, HTTP/2) the stock one does:
`GATEWAY_UPSTREAM_TRANSPORT`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx

from gateway.upstream.connection import Connection, Head
from gateway.upstream.pool import Origin, Pool

# What a server may have closed while we wrote was on its way before our bytes arrived:
# it is here within a round trip, and connecting took at least one. On loopback that is
# less than the event loop's own delays.
_STALE_AT_LEAST_S: Final = 0.01
_STALE_ROUND_TRIPS: Final = 2.0

# URLs are parsed once; there are as many as models in use.
_MAX_TARGETS: Final = 1024


# An extension of our own: `Patience` with the body, so that its reader needs no clock
# of its own for each piece. A transport that has it says so in the response's.
PATIENCE: Final = "llmtune.patience"


class _Target:
    """A URL as a connection needs it."""

    __slots__ = ("origin", "path", "url")

    def __init__(self, url: httpx.URL) -> None:
        # Kept, so that its id stays its own.
        self.url = url
        is_tls = url.scheme == "https"
        if not is_tls and url.scheme != "http":
            raise httpx.UnsupportedProtocol(f"{url.scheme!r} is not spoken here")
        port = url.port or (443 if is_tls else 80)
        self.origin = Origin(url.raw_host.decode("ascii"), port, is_tls)
        self.path = url.raw_path


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
        self._targets: dict[int, _Target] = {}
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
        target = self._target(request.url)
        timeouts = request.extensions.get("timeout") or {}
        wire = _to_wire(request, target)
        await self.pool.take_place(timeouts.get("pool"))
        try:
            connection, head = await self._exchange(request, target, wire, timeouts)
        except BaseException:
            self.pool.give_place_back()
            raise
        patience = request.extensions.get(PATIENCE)
        if patience is not None:
            connection.be_patient(patience)
        return httpx.Response(
            head.status,
            headers=head.headers,
            stream=_Body(self.pool, target.origin, connection, timeouts.get("read")),
            extensions={
                "http_version": b"HTTP/" + head.http_version,
                "reason_phrase": head.reason,
                PATIENCE: patience,
            },
        )

    async def aclose(self) -> None:
        await self.pool.aclose()

    def _target(self, url: httpx.URL) -> _Target:
        target = self._targets.get(id(url))
        if target is None:
            if len(self._targets) >= _MAX_TARGETS:
                self._targets.clear()
            target = self._targets[id(url)] = _Target(url)
        return target

    async def _exchange(
        self,
        request: httpx.Request,
        target: _Target,
        wire: bytes,
        timeouts: dict[str, float | None],
    ) -> tuple[Connection, Head]:
        """The connection that carries the answer, and the answer's head."""
        connection = self.pool.take_idle(target.origin)
        if connection is not None:
            sent_s = asyncio.get_running_loop().time()
            try:
                return connection, await _attempt(connection, request, wire, timeouts)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                if not _was_stale(connection, request, sent_s):
                    raise
        # Its server had given the idle one up before our bytes arrived, so they were
        # read by nobody. A fresh one cannot be stale: this is tried once.
        connection = await self.pool.connect(target.origin, timeouts.get("connect"))
        return connection, await _attempt(connection, request, wire, timeouts)


async def _attempt(
    connection: Connection,
    request: httpx.Request,
    wire: bytes,
    timeouts: dict[str, float | None],
) -> Head:
    """One exchange up to its head; the connection is closed unless that came."""
    try:
        content = request.stream
        body = b"".join(content) if isinstance(content, httpx.ByteStream) else b""
        connection.send(wire, body, has_no_body=request.method == "HEAD")
        if not isinstance(content, httpx.ByteStream):
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
        if connection.is_answering:
            break  # an early answer, most likely a refusal: the rest is not wanted
        if part:
            connection.write(
                b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part
            )
        if connection.is_write_paused:
            await _drain(connection, timeout_s)
    if is_chunked:
        connection.write(b"0\r\n\r\n")


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


def _was_stale(connection: Connection, request: httpx.Request, sent_s: float) -> bool:
    """
    Whether the server closed an idle connection while the request was on its way.

    A request that might have been read is never sent twice.
    """
    if connection.is_answering or not isinstance(request.stream, httpx.ByteStream):
        return False
    elapsed_s = asyncio.get_running_loop().time() - sent_s
    round_trip_s = max(_STALE_AT_LEAST_S, _STALE_ROUND_TRIPS * connection.connect_s)
    return elapsed_s <= round_trip_s


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


def _to_wire(request: httpx.Request, target: _Target) -> bytes:
    """Request line and headers; LocalProtocolError if one breaks out of its line."""
    parts = [request.method.encode("ascii"), b" ", target.path, b" HTTP/1.1\r\n"]
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
