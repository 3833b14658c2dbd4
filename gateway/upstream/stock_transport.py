"""httpx's stock transport with a bound of our own: for proxies and HTTP/2."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx


def stock_transport(
    *,
    max_connections: int,
    idle_s: float,
    uds: Path | None = None,
    proxy: str | None = None,
    is_http2: bool = False,
) -> httpx.AsyncBaseTransport:
    """A pool of keep-alive connections; TLS is verified, redirects are not followed."""
    limits = httpx.Limits(
        # httpcore 1.0.9 loses a place for good when a request that queues for one is
        # cancelled or times out as it is served, so it must never have to queue.
        max_connections=None,
        # As many as there can be: with fewer, httpcore closes busy pools' connections
        # after each answer.
        max_keepalive_connections=max_connections,
        keepalive_expiry=idle_s,
    )
    # No transport-level retries: there is one retry rule, and it is `retry`'s.
    inner = httpx.AsyncHTTPTransport(
        limits=limits,
        retries=0,
        uds=str(uds) if uds else None,
        proxy=proxy,
        http2=is_http2,
    )
    return BoundedTransport(inner, max_connections)


class BoundedTransport(httpx.AsyncBaseTransport):
    """Lets so many calls at once through to another transport; the others wait."""

    def __init__(self, inner: httpx.AsyncBaseTransport, max_calls: int) -> None:
        self._inner = inner
        self._places = asyncio.Semaphore(max_calls)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises PoolTimeout if no place is free within the request's pool time-out."""
        patience_s = request.extensions.get("timeout", {}).get("pool")
        if self._places.locked():
            await self._wait(patience_s)
        else:
            await self._places.acquire()  # does not wait: a place is free
        try:
            response = await self._inner.handle_async_request(request)
        except BaseException:
            self._places.release()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - an async transport's always is
        response.stream = _PlaceHolder(response.stream, self._places)
        return response

    async def _wait(self, patience_s: float | None) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no connection became free") from None

    async def aclose(self) -> None:
        await self._inner.aclose()


class _PlaceHolder(httpx.AsyncByteStream):
    """A body that gives its place back when it is closed, once."""

    def __init__(
        self, stream: httpx.AsyncByteStream, places: asyncio.Semaphore
    ) -> None:
        self._stream = stream
        self._places = places
        self._is_held = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            if self._is_held:
                self._is_held = False
                self._places.release()
