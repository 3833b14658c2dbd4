"""
One attempt as bytes out and an answer in, whichever transport carries it.

The lean transport sends it as it is. Through httpx's own interface, a `Request`, a
`Response` and their `Headers` take 80 us of every call: decision 0011.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Final, NamedTuple, Protocol

import httpx

from gateway.errors import Header
from gateway.upstream.connection import Take
from gateway.upstream.limits import Limits

# Models times fleets: more than any operator has, and little memory.
MAX_REMEMBERED: Final = 1024

_FIXED: Final = (
    (b"content-type", b"application/json"),
    # Compressed events would wait for each other in the compressor.
    (b"accept-encoding", b"identity"),
    (b"user-agent", b"llmtune-gateway"),
    # To a mesh's proxy on the way: the gateway knows what may be tried again, and does.
    (b"x-envoy-max-retries", b"0"),
)
_ACCEPT: Final = {
    False: (b"accept", b"application/json"),
    True: (b"accept", b"text/event-stream, application/json"),
}


class Outgoing(NamedTuple):
    """A POST of JSON."""

    url: str
    is_stream: bool
    # What differs from call to call; the rest is `fixed_headers`.
    headers: tuple[Header, ...]
    body: bytes


class Incoming(Protocol):
    """An answer that has begun; whoever has it closes it."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> httpx.Headers: ...

    def take_whole(self) -> bytes | None:
        """All that is left of the body, if it is here, to its end; needs no waiting."""
        ...

    async def next_chunk(self) -> bytes | None:
        """The body as it arrives, None at its end; httpx's errors, time-outs too."""
        ...

    async def pour(self, take: Take) -> None:
        """
        Hand what arrives to `take` until it says no, or until nothing more comes.

        After that `next_chunk` says how it goes on.
        """
        ...

    def close(self) -> Coroutine[None, None, None] | None:
        """Give the connection back, or cut it; what is returned is to be awaited."""
        ...


class Sender(Protocol):
    """Carries attempts; raises httpx's transport errors."""

    async def send(self, request: Outgoing, limits: Limits) -> Incoming: ...


def fixed_headers(*, is_stream: bool) -> tuple[Header, ...]:
    """What every call carries."""
    return (*_FIXED, _ACCEPT[is_stream])


class HttpxSender:
    """Sends through httpx's transport interface: proxies, HTTP/2, and tests."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self._urls: dict[str, httpx.URL] = {}

    async def send(self, request: Outgoing, limits: Limits) -> Incoming:
        try:
            async with asyncio.timeout_at(min(limits.head_by_s, limits.ends_at_s)):
                response = await self._transport.handle_async_request(
                    self._to_httpx(request, limits)
                )
        except TimeoutError:
            raise httpx.ReadTimeout("no answer in time") from None
        return HttpxAnswer(response, limits)

    def _to_httpx(self, request: Outgoing, limits: Limits) -> httpx.Request:
        url = self._url(request.url)
        # Read time-outs differ by stage, and httpx knows only one: they are ours.
        timeout = {
            "connect": limits.connect_s,
            "pool": limits.connect_s,
            "write": limits.idle_s,
            "read": None,
        }
        headers = [
            (b"host", url.netloc),
            (b"content-length", b"%d" % len(request.body)),
            *fixed_headers(is_stream=request.is_stream),
            *request.headers,
        ]
        return httpx.Request(
            "POST",
            url,
            headers=headers,
            content=request.body,
            extensions={"timeout": timeout},
        )

    def _url(self, text: str) -> httpx.URL:
        # An httpx.URL costs 20 to 30 us to parse; the few in use are parsed once.
        url = self._urls.get(text)
        if url is None:
            if len(self._urls) >= MAX_REMEMBERED:
                self._urls.clear()
            url = self._urls[text] = httpx.URL(text)
        return url


class HttpxAnswer:
    """Implements `Incoming` over httpx's response."""

    def __init__(self, response: httpx.Response, limits: Limits) -> None:
        self._response = response
        self._limits = limits
        self._body: AsyncIterator[bytes] = response.aiter_bytes()

    @property
    def status(self) -> int:
        return self._response.status_code

    @property
    def headers(self) -> httpx.Headers:
        return self._response.headers

    def take_whole(self) -> bytes | None:
        return None  # httpx does not say

    async def next_chunk(self) -> bytes | None:
        due_s = asyncio.get_running_loop().time() + self._limits.idle_s
        try:
            async with asyncio.timeout_at(min(due_s, self._limits.ends_at_s)):
                return await anext(self._body, None)
        except TimeoutError:
            raise httpx.ReadTimeout("the answer stopped") from None

    async def pour(self, take: Take) -> None:
        await pour_from(self, take)

    def close(self) -> Coroutine[None, None, None]:
        return self._response.aclose()


async def pour_from(answer: Incoming, take: Take) -> None:
    """`Incoming.pour` for what can only be asked for one chunk after another."""
    while (chunk := await answer.next_chunk()) is not None:
        if not take(chunk):
            return
