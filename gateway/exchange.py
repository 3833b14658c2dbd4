"""
One HTTP request and its answer: headers, body within bounds, and the facts of the log.

Every answer of the gateway leaves through an `Exchange`, which adds what all of them
carry; every wait for a slow client has a deadline.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from gateway.auth import Principal
from gateway.errors import (
    ClientGone,
    GatewayError,
    Header,
    RequestTimedOut,
    RequestTooLarge,
    UnsupportedEncoding,
    envelope,
    retry_headers,
)
from gateway.ids import new_id
from gateway.limit_headers import limit_headers
from gateway.record import Record
from gateway.tracing.facts import RequestTrace
from gateway.translation.usage import TokenUsage
from gateway.wire import Wire
from policies.ledger import LimitState

# Where a scope holds it, for what Litestar answers.
EXCHANGE: Final = "llmtune.exchange"

JSON_TYPE: Final = (b"content-type", b"application/json")

# A caller's own id must be safe in a header and in a log, and short enough for both.
_ACCEPTABLE_ID: Final = re.compile(rb"^[A-Za-z0-9._:@/+=-]{1,128}$")

# What may stand in a log of an error's code.
_IS_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# An honest client on a slow line sends this much a second; anything slower is holding a
# connection open. At double, phones on the edge of a network are cut off.
SLOWEST_BODY_BYTES_PER_S: Final = 16 * 1024

# What is read away of a body that an early refusal, such as a 401, never looked at.
LINGER_UNASKED_BYTES: Final = 1024 * 1024

# An oversized body is read to its end, up to here, so that clients which only read
# after they have written see the 413 and not a reset.
LINGER_BYTES: Final = 64 * 1024 * 1024
# Reading away may not hold a place for long: honest clients have sent it by then.
LINGER_S: Final = 2.0


class Exchange:
    """One request, as the routes see it."""

    __slots__ = (
        "_common",
        "_is_body_done",
        "_write_timeout_s",
        "carried",
        "headers",
        "is_started",
        "limit_headers",
        "principal",
        "record",
        "request_id",
        "started_s",
        "trace",
        "waited_s",
        "wire",
    )

    def __init__(self, wire: Wire, *, write_timeout_s: float) -> None:
        self.wire = wire
        self._write_timeout_s = write_timeout_s
        # By lower-case name; of several of a name, the last.
        self.headers: dict[bytes, bytes] = self.wire.headers
        # Not the loop's clock, whose ticks under uvloop are whole milliseconds.
        self.started_s = time.perf_counter()
        # Of its time, what was spent waiting for its body and for LLMTune's answer.
        self.waited_s = 0.0
        peer = wire.head.client
        client = peer[0] if peer else None
        # All that has no constant default is said here: a factory is a call.
        self.record = Record("_other", 0, "failed", client=client)
        self.request_id = self._choose_id()
        self.is_started = False
        self._is_body_done = not (
            b"content-length" in self.headers or b"transfer-encoding" in self.headers
        )
        # Set by the middleware where something is exported.
        self.trace: RequestTrace | None = None
        # The trace headers of a request whose trace is dropped; None: as they came.
        self.carried: tuple[Header, ...] | None = None
        # Set by the door once the key is known.
        self.principal: Principal | None = None
        # Set once the plan has decided, then carried by whatever answer comes.
        self.limit_headers: tuple[Header, ...] = ()
        self._common: list[Header] = [
            (b"x-request-id", self.request_id.encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
        ]

    def add_headers(self, headers: Iterable[Header]) -> None:
        """Headers that whatever answer follows has to carry."""
        self._common.extend(headers)

    @property
    def trace_id(self) -> str | None:
        """The id of a trace that is kept; None for one that is dropped."""
        trace = self.trace
        return trace.hex_id if trace is not None and trace.is_sampled else None

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started_s

    def _choose_id(self) -> str:
        theirs = self.headers.get(b"x-client-request-id")
        if theirs is not None and _ACCEPTABLE_ID.match(theirs):
            self.record.client_request_id = theirs.decode("ascii")
        own = self.headers.get(b"x-request-id")
        if own is not None and _ACCEPTABLE_ID.match(own):
            return own.decode("ascii")
        return "req_" + new_id()

    def take_body(self, max_bytes: int) -> bytes | None:
        """The body, if it came with its headers, as most do; bounded in size."""
        encoding = self.headers.get(b"content-encoding")
        if encoding and encoding.lower() != b"identity":
            raise UnsupportedEncoding("Send the body without a content encoding.")
        whole = self.wire.take_body()
        if whole is not None:
            self._is_body_done = True
            if len(whole) > max_bytes:
                raise _too_large(max_bytes)
        return whole

    async def read_body(self, max_bytes: int, timeout_s: float) -> bytes:
        """
        What `take_body` did not have, bounded in size and time.

        The time allowed is `timeout_s` and what the bytes received so far need on the
        slowest honest line.
        """
        began_s = time.perf_counter()
        pieces = [piece async for piece in self.stream_body(max_bytes, timeout_s)]
        self.waited_s += time.perf_counter() - began_s
        return b"".join(pieces)

    async def stream_body(
        self, max_bytes: int, timeout_s: float
    ) -> AsyncIterator[bytes]:
        """The body in pieces as they come, within the same bounds."""
        encoding = self.headers.get(b"content-encoding")
        if encoding and encoding.lower() != b"identity":
            raise UnsupportedEncoding("Send the body without a content encoding.")
        if self._declared_bytes() > max_bytes:
            await self._linger(LINGER_BYTES)
            raise _too_large(max_bytes)
        loop = asyncio.get_running_loop()
        # What the reader takes for a piece is not the client's time.
        waited_s, received = 0.0, 0
        while not self._is_body_done:
            left_s = timeout_s + received / SLOWEST_BODY_BYTES_PER_S - waited_s
            asked_s = loop.time()
            try:
                async with asyncio.timeout_at(asked_s + left_s):
                    message = await self.wire.receive()
            except TimeoutError:
                self._give_up_body()
                raise RequestTimedOut("The body did not arrive in time.") from None
            if message["type"] == "http.disconnect":
                raise ClientGone
            waited_s += loop.time() - asked_s
            piece = message.get("body", b"")
            received += len(piece)
            if received > max_bytes:
                await self._linger(LINGER_BYTES)
                raise _too_large(max_bytes)
            self._is_body_done = not message.get("more_body")
            if piece:
                yield piece

    def _declared_bytes(self) -> int:
        digits = self.headers.get(b"content-length", b"0").lstrip(b"0")
        # A number of a thousand digits is larger than any bound, and int() refuses it.
        return int(digits or b"0") if len(digits) < 20 else 2**63

    async def _linger(self, most_bytes: int) -> None:
        """
        Read an unwanted body to its end and forget it, so that the answer is seen.

        Most clients read only after they have written, and closing on unread bytes
        resets the connection under the answer. What is not at its end within the bounds
        costs the client its connection.
        """
        if self._is_body_done:
            return
        # Who waits to be asked for its body has sent nothing that must be read away.
        is_awaited = b"expect" in self.headers
        is_small = self._declared_bytes() <= most_bytes
        if is_small and not is_awaited and await self._read_away(most_bytes):
            self._is_body_done = True
            return
        self._give_up_body()

    def _give_up_body(self) -> None:
        self._is_body_done = True
        self._common.append((b"connection", b"close"))

    async def _read_away(self, most_bytes: int) -> bool:
        """Whether the body ended within these bytes and a moment."""
        left = most_bytes
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while left > 0:
                    message = await self.wire.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    left -= len(message.get("body", b""))
                    if not message.get("more_body"):
                        return True
        return False

    @property
    def common_headers(self) -> tuple[Header, ...]:
        return tuple(self._common)

    async def start(self, status: int, headers: Iterable[Header]) -> None:
        """Send status and headers, once."""
        if self.wire.is_paused:
            await self.catch_up()
        self.begin(status, headers)

    async def write(self, body: bytes, *, more: bool) -> None:
        if self.wire.is_paused:
            await self.catch_up()
        self.wire.write(body, more=more)

    async def catch_up(self) -> None:
        """Wait for a client that reads slower than is written, but not for ever."""
        await self.wire.catch_up(self._write_timeout_s)

    def begin(self, status: int, headers: Iterable[Header]) -> None:
        """As `start`, for who knows that nothing has to be waited for."""
        self.wire.begin(status, self._head(status, headers))

    def _head(self, status: int, headers: Iterable[Header]) -> list[Header]:
        self.is_started = True
        self.record.status = status
        if status < 400:
            self.record.outcome = "ok"
        return [*headers, *self.limit_headers, *self._common]

    async def respond(
        self, status: int, body: bytes, headers: Iterable[Header] = (JSON_TYPE,)
    ) -> None:
        """Send a whole answer."""
        if self.wire.is_paused:
            await self.catch_up()
        length = (b"content-length", b"%d" % len(body))
        self.wire.answer(status, self._head(status, (*headers, length)), body)

    async def fail(self, error: GatewayError) -> None:
        """Send an error's envelope with the headers that belong to it."""
        await self._linger(LINGER_UNASKED_BYTES)
        headers = (JSON_TYPE, *error.headers, *retry_headers(error))
        self.note(error)
        await self.respond(error.http_status, envelope(error), headers)

    def note(self, error: GatewayError) -> None:
        """Put an error into the record."""
        if self.trace is not None:
            self.trace.failed(error)
        record = self.record
        record.outcome = error.outcome
        # An upstream's own may be a sentence, with what it was sent in it.
        is_code = _IS_CODE.fullmatch(error.error_code) is not None
        record.error_code = error.error_code if is_code else error.code
        record.fault = error.fault
        record.param = error.param and error.param[:128]
        if error.details:
            record.limit = error.details.get("dimension")
        if not self.is_started:
            # Refunded: what was noted for the prompt is not spent after all.
            record.input_tokens = record.output_tokens = None

    def decided(self, states: Iterable[LimitState]) -> None:
        """The plan has decided: any answer now carries where its limits stand."""
        self.limit_headers = limit_headers(states)

    def used(self, usage: TokenUsage) -> None:
        """Put the tokens of an answer into the record."""
        self.record.input_tokens = usage.input_tokens
        self.record.output_tokens = usage.output_tokens
        self.record.is_usage_reported = usage.is_reported

    def abort(self) -> None:
        """Cut the connection: what is still to be sent would never be read."""
        self.wire.abort()


def _too_large(max_bytes: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {max_bytes} bytes.")


def exchange_of(scope: Mapping[str, Any]) -> Exchange:
    """The exchange that the outermost middleware opened for this request."""
    exchange: Exchange = scope[EXCHANGE]
    return exchange
