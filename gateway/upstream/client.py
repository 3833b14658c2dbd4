"""
One upstream call: attempts under one deadline, then an answer that somebody must close.

httpx is used at its transport interface: the client layer above it costs more than the
rest of the gateway, and nothing of it (cookies, redirects, auth) is wanted here. A
redirect is therefore an answer like any other, and never followed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import httpx
import msgspec

from gateway.errors import GatewayError, UpstreamError
from gateway.secret import Secret
from gateway.settings import Settings
from gateway.telemetry import Telemetry
from gateway.translation.faults import error_of_status
from gateway.translation.port import UpstreamRequest
from gateway.upstream.connection import Patience
from gateway.upstream.deadline import Deadline, Timeouts
from gateway.upstream.faults import from_transport_error, is_before_sending
from gateway.upstream.lean_transport import PATIENCE
from gateway.upstream.retry import retry_wait_s

# An error body is read to be translated, not relayed; more of it is a page, not an
# error.
MAX_ERROR_BYTES: Final = 64 * 1024


class Credentials(msgspec.Struct, frozen=True):
    """With which key and to which fleet a call goes."""

    base_url: str
    api_key: Secret
    # Whether a refused key is the caller's to mend, or the operator's.
    is_callers_key: bool


class UpstreamCall(msgspec.Struct, frozen=True):
    """A request and what goes with it."""

    request: UpstreamRequest
    credentials: Credentials
    model: str
    request_id: str
    trace_headers: tuple[tuple[bytes, bytes], ...] = ()


class UpstreamAnswer:
    """
    An accepted call: status 200 and headers are here, the body is not.

    Closing it early closes the connection, which is how the upstream learns that nobody
    listens any more.
    """

    def __init__(
        self, response: httpx.Response, deadline: Deadline, max_bytes: int
    ) -> None:
        self._response = response
        self._deadline = deadline
        self._max_bytes = max_bytes
        # Whether the transport bounds each wait for the body itself.
        self._is_timed = response.extensions.get(PATIENCE) is not None
        self._body = _body_of(response)

    async def read(self) -> bytes:
        """What is left of the body, bounded in size and time."""
        received = bytearray()
        while (chunk := await self.next_chunk()) is not None:
            received += chunk
            if len(received) > self._max_bytes:
                raise UpstreamError(
                    f"The upstream's answer is larger than {self._max_bytes} bytes.",
                    fault="too_large",
                )
        return bytes(received)

    async def next_chunk(self) -> bytes | None:
        """The body as it arrives, None at its end; each wait is bounded."""
        idle_s = self._deadline.timeouts.idle_s
        try:
            if self._is_timed:
                return await anext(self._body, None)
            async with self._deadline.within(idle_s, "sent nothing more"):
                return await anext(self._body, None)
        except httpx.TransportError as error:
            raise from_transport_error(error) from None
        except httpx.DecodingError:
            raise UpstreamError("The upstream's content encoding is broken.") from None

    async def aclose(self) -> None:
        await self._response.aclose()


class UpstreamClient:
    """Opens calls to LLMTune."""

    def __init__(
        self,
        settings: Settings,
        *,
        transport: httpx.AsyncBaseTransport,
        telemetry: Telemetry,
    ) -> None:
        self._timeouts = Timeouts.of(settings)
        self._max_attempts = settings.upstream_max_attempts
        self._max_bytes = settings.upstream_max_answer_bytes
        self._transport = transport
        self._telemetry = telemetry

    @asynccontextmanager
    async def open(self, call: UpstreamCall) -> AsyncIterator[UpstreamAnswer]:
        """An accepted answer, closed on every way out; or the error it ended in."""
        answer = await self._attempts(call)
        try:
            yield answer
        finally:
            # The client is often gone by now and this task is being cancelled: without
            # the shield the connection would stay open and the upstream keep
            # generating.
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _attempts(self, call: UpstreamCall) -> UpstreamAnswer:
        deadline = Deadline(self._timeouts)
        attempt = 1
        while True:
            result = await self._attempt(call, deadline)
            if isinstance(result, UpstreamAnswer):
                self._telemetry.attempt("ok")
                return result
            error = result.error
            # A word from a closed set: an upstream's own code would be unbounded.
            self._telemetry.attempt(error.fault or "refused")
            wait_s = None
            if result.is_before_start:
                wait_s = retry_wait_s(
                    error,
                    attempt=attempt,
                    max_attempts=self._max_attempts,
                    jitter=random.random(),  # noqa: S311 - spreads retries, guards nothing
                )
            if wait_s is None or wait_s >= deadline.left_s:
                raise error
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _attempt(
        self, call: UpstreamCall, deadline: Deadline
    ) -> UpstreamAnswer | _Failed:
        request = _to_httpx(call, deadline)
        first_byte_s = self._timeouts.connect_s + self._timeouts.first_byte_s
        try:
            async with deadline.within(first_byte_s, "did not begin to answer"):
                response = await self._transport.handle_async_request(request)
        except httpx.TransportError as error:
            return _Failed(from_transport_error(error), is_before_sending(error))
        except GatewayError as error:
            return _Failed(error, is_before_start=False)
        answer = UpstreamAnswer(response, deadline, self._max_bytes)
        # Nothing else carries an answer: LLMTune documents no other success here.
        if response.status_code == 200:
            return answer
        refusal = await self._refusal(call, answer, response)
        return _Failed(refusal, response.status_code in {429, 503})

    async def _refusal(
        self, call: UpstreamCall, answer: UpstreamAnswer, response: httpx.Response
    ) -> GatewayError:
        body = bytearray()
        try:
            while len(body) < MAX_ERROR_BYTES:
                chunk = await answer.next_chunk()
                if chunk is None:
                    break
                body += chunk
        except UpstreamError:
            # The status alone says enough; a broken error body adds nothing.
            body.clear()
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()
        error = error_of_status(
            response.status_code,
            response.headers,
            bytes(body),
            model=call.model,
            now_s=time.time(),
        )
        is_key_refused = response.status_code in {401, 403}
        if is_key_refused and not call.credentials.is_callers_key:
            # The caller's key was good; the operator's is not. A 401 would send an
            # application developer looking in the wrong place.
            return UpstreamError(
                "The upstream refused the gateway's own API key.",
                fault="own_key_refused",
            )
        return error


class _Failed(msgspec.Struct, frozen=True):
    """A failed attempt, with the error the call ends in if it is the last one."""

    error: GatewayError
    # Whether the upstream cannot have begun to work on it.
    is_before_start: bool


# httpx.URL costs 20 to 30 us to parse; the few URLs in use are parsed once.
_URL_CACHE_SIZE: Final = 1024
_urls: dict[str, httpx.URL] = {}


def _url(text: str) -> httpx.URL:
    url = _urls.get(text)
    if url is None:
        if len(_urls) >= _URL_CACHE_SIZE:
            _urls.clear()
        url = _urls[text] = httpx.URL(text)
    return url


def _body_of(response: httpx.Response) -> AsyncIterator[bytes]:
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        return response.aiter_bytes()
    # Not by way of `aiter_raw`, which costs 3 us a chunk and counts what nobody asks.
    assert isinstance(response.stream, httpx.AsyncByteStream)  # noqa: S101 - of an async call
    return aiter(response.stream)


def _to_httpx(call: UpstreamCall, deadline: Deadline) -> httpx.Request:
    request, credentials, timeouts = call.request, call.credentials, deadline.timeouts
    url = _url(credentials.base_url + request.path)
    accept = (
        b"text/event-stream, application/json"
        if request.is_stream
        else b"application/json"
    )
    headers = [
        (b"host", url.netloc),
        (b"authorization", b"Bearer " + credentials.api_key.reveal().encode("ascii")),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(request.body)),
        (b"accept", accept),
        # Compressed events would wait for each other in the compressor.
        (b"accept-encoding", b"identity"),
        (b"user-agent", b"llmtune-gateway"),
        (b"x-request-id", call.request_id.encode("ascii")),
        *call.trace_headers,
    ]
    # Read time-outs are the deadline's: they differ by stage, and httpx knows only one.
    timeout = {
        "connect": timeouts.connect_s,
        "pool": timeouts.connect_s,
        "write": timeouts.idle_s,
        "read": None,
    }
    return httpx.Request(
        "POST",
        url,
        headers=headers,
        content=request.body,
        extensions={
            "timeout": timeout,
            PATIENCE: Patience(timeouts.idle_s, deadline.ends_at_s),
        },
    )
