"""
One upstream call: attempts under one deadline, then an answer that somebody must close.

Nothing of an HTTP client above its transport (cookies, redirects, auth) is wanted here.
A redirect is therefore an answer like any other, and never followed.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final, Self

import httpx
import msgspec

from gateway.errors import GatewayError, Header, UpstreamError
from gateway.secret import Secret
from gateway.settings import Settings
from gateway.telemetry.metrics import Telemetry
from gateway.tracing.facts import RequestTrace
from gateway.translation.port import Route, UpstreamRequest
from gateway.upstream.connection import Take
from gateway.upstream.deadline import Deadline, Timeouts
from gateway.upstream.faults import from_transport_error, is_before_sending
from gateway.upstream.limits import Limits
from gateway.upstream.refusal import refusal_of
from gateway.upstream.retry import retry_wait_s
from gateway.upstream.sending import Incoming, Outgoing, Sender

# An error body is read to be translated, not relayed; more of it is a page, not an
# error.
MAX_ERROR_BYTES: Final = 64 * 1024

_ANSWERED: Final = frozenset({200})
# What goes on afterwards is created, or accepted.
_CREATED: Final = frozenset({200, 201, 202})


class Credentials:
    """With which key and to which fleet a call goes."""

    __slots__ = ("api_key", "authorization", "base_url", "is_callers_key")

    def __init__(self, base_url: str, api_key: Secret, *, is_callers_key: bool) -> None:
        self.base_url = base_url
        self.api_key = api_key
        # Whether a refused key is the caller's to mend, or the operator's.
        self.is_callers_key = is_callers_key
        self.authorization: Header = (
            b"authorization",
            b"Bearer " + api_key.reveal().encode("ascii"),
        )


class UpstreamCall(msgspec.Struct, frozen=True):
    """A request and what goes with it."""

    request: UpstreamRequest
    credentials: Credentials
    model: str
    request_id: str
    # As they came, where no trace of ours carries them on.
    trace_headers: tuple[tuple[bytes, bytes], ...] = ()
    trace: RequestTrace | None = None
    # The upstream does what came with this key once, however often it comes.
    idempotency_key: bytes | None = None


class UpstreamAnswer:
    """
    An accepted call: status and headers are here, the body is not.

    Closing it early closes the connection, which is how the upstream learns that nobody
    listens any more.
    """

    __slots__ = (
        "_closing",
        "_incoming",
        "_is_closed",
        "_is_handed_over",
        "_max_bytes",
        "_trace",
    )

    def __init__(
        self, incoming: Incoming, max_bytes: int, trace: RequestTrace | None = None
    ) -> None:
        self._incoming = incoming
        # Told when the body ends; of an accepted answer only.
        self._trace = trace
        self._max_bytes = max_bytes
        self._is_handed_over = self._is_closed = False
        self._closing: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._is_handed_over:
            await self.aclose()

    @property
    def status(self) -> int:
        return self._incoming.status

    def hand_over(self) -> None:
        """Somebody else closes it: leaving its block does not."""
        self._is_handed_over = True

    async def read(self) -> bytes:
        """What is left of the body, bounded in size and time."""
        whole = self._incoming.take_whole()
        if whole is not None and len(whole) <= self._max_bytes:
            # Without the coroutines of two waits: 4 us.
            return whole
        return await self._read_on(whole or b"")

    async def _read_on(self, first: bytes) -> bytes:
        chunks = [first]
        received_bytes = len(first)
        while received_bytes <= self._max_bytes:
            chunk = await self.next_chunk()
            if chunk is None:
                return b"".join(chunks)
            chunks.append(chunk)
            received_bytes += len(chunk)
        raise UpstreamError(
            f"The upstream's answer is larger than {self._max_bytes} bytes.",
            fault="too_large",
        )

    async def next_chunk(self) -> bytes | None:
        """The body as it arrives, None at its end; each wait is bounded."""
        try:
            return await self._incoming.next_chunk()
        except httpx.TransportError as error:
            raise from_transport_error(error) from None
        except httpx.DecodingError:
            raise UpstreamError("The upstream's content encoding is broken.") from None

    async def pour(self, take: Take) -> None:
        """The body handed on where it arrives, as `Incoming.pour` says."""
        try:
            await self._incoming.pour(take)
        except httpx.TransportError as error:
            raise from_transport_error(error) from None
        except httpx.DecodingError:
            raise UpstreamError("The upstream's content encoding is broken.") from None

    async def aclose(self) -> None:
        """
        Close, whatever becomes of this task meanwhile. Safe to call twice.

        The client is often gone by now and this task is being cancelled: unshielded,
        the connection would stay open and the upstream keep generating.
        """
        if not self._is_closed:
            self._is_closed = True
            if self._trace is not None:
                self._trace.attempt_over()
            closing = self._incoming.close()
            if closing is not None:
                self._closing = asyncio.ensure_future(closing)
        if self._closing is not None:
            await asyncio.shield(self._closing)


class UpstreamClient:
    """Opens calls to LLMTune."""

    def __init__(
        self, settings: Settings, *, sender: Sender, telemetry: Telemetry
    ) -> None:
        self._timeouts = Timeouts.of(settings)
        self._max_attempts = settings.upstream_max_attempts
        self._max_bytes = settings.upstream_max_answer_bytes
        self._sender = sender
        self._telemetry = telemetry

    async def open(self, call: UpstreamCall) -> UpstreamAnswer:
        """An accepted answer, which its user closes; or the error it ended in."""
        deadline = Deadline(self._timeouts)
        outgoing, trace = _outgoing(call), call.trace
        attempt = 1
        while True:
            sent = outgoing if trace is None else _traced(outgoing, trace)
            began_s = time.perf_counter()
            result = await self._attempt(call, sent, deadline)
            took_s = time.perf_counter() - began_s
            if isinstance(result, UpstreamAnswer):
                if trace is not None:
                    trace.attempt_accepted(result.status)
                self._telemetry.attempted.note(("ok", took_s))
                return result
            error = result.error
            # A word from a closed set: an upstream's own code would be unbounded.
            self._telemetry.attempted.note((error.fault or "refused", took_s))
            if trace is not None:
                trace.attempt_failed(result.status, error)
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
        self, call: UpstreamCall, outgoing: Outgoing, deadline: Deadline
    ) -> UpstreamAnswer | _Failed:
        timeouts = self._timeouts
        first_byte_s = timeouts.connect_s + timeouts.first_byte_s
        limits = Limits(
            timeouts.connect_s,
            timeouts.idle_s,
            asyncio.get_running_loop().time() + first_byte_s,
            deadline.ends_at_s,
        )
        try:
            incoming = await self._sender.send(outgoing, limits)
        except httpx.ReadTimeout:
            missed = "did not begin to answer"
            error = deadline.overdue(limits.head_by_s, first_byte_s, missed)
            return _Failed(error, is_before_start=False)
        except httpx.TransportError as problem:
            failure = from_transport_error(problem)
            return _Failed(failure, is_before_sending(problem))
        is_accepted = incoming.status in _accepted(call.request.route)
        trace = call.trace if is_accepted else None
        answer = UpstreamAnswer(incoming, self._max_bytes, trace)
        if is_accepted:
            return answer
        refusal = await self._refusal(call, answer, incoming)
        return _Failed(refusal, incoming.status in {429, 503}, incoming.status)

    async def _refusal(
        self, call: UpstreamCall, answer: UpstreamAnswer, incoming: Incoming
    ) -> GatewayError:
        body = bytearray()
        async with answer:
            try:
                while len(body) < MAX_ERROR_BYTES:
                    chunk = await answer.next_chunk()
                    if chunk is None:
                        break
                    body += chunk
            except UpstreamError:
                # The status alone says enough; a broken error body adds nothing.
                body.clear()
        return refusal_of(
            incoming.status,
            incoming.headers,
            bytes(body),
            model=call.model,
            is_callers_key=call.credentials.is_callers_key,
        )


class _Failed(msgspec.Struct, frozen=True):
    """A failed attempt, with the error the call ends in if it is the last one."""

    error: GatewayError
    # Whether the upstream cannot have begun to work on it.
    is_before_start: bool
    # None where there was no answer at all.
    status: int | None = None


def _accepted(route: Route) -> frozenset[int]:
    # Elsewhere nothing but a 200 carries an answer.
    return _CREATED if route in {"batch", "fine_tune"} else _ANSWERED


def _outgoing(call: UpstreamCall) -> Outgoing:
    request, credentials = call.request, call.credentials
    headers = (
        credentials.authorization,
        (b"x-request-id", call.request_id.encode("ascii")),
        *call.trace_headers,
    )
    if call.idempotency_key is not None:
        headers += ((b"idempotency-key", call.idempotency_key),)
    return Outgoing(
        credentials.base_url + request.path, request.is_stream, headers, request.body
    )


def _traced(outgoing: Outgoing, trace: RequestTrace) -> Outgoing:
    """The same, as an attempt of its own in its request's trace."""
    headers = (*outgoing.headers, *trace.attempt(outgoing.url))
    return outgoing._replace(headers=headers)
