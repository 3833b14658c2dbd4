"""
Writing an answer at the model's pace, whole, streamed or spoiled by a fault.

A fault given here has been chosen already; this is how it looks on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, NoReturn

from gateway.simulator.errors import SimulatorError, error_body
from gateway.simulator.exchange import ClientLeft, Exchange
from gateway.simulator.faults import FaultKind
from gateway.simulator.replies import AnyReply, Header, Reply, StreamedReply
from gateway.simulator.settings import SimulatorSettings

# A streamed answer goes wrong after this many events: enough that a client has seen
# the stream begin, fewer than the shortest stream has.
EVENTS_BEFORE_FAULT: Final = 3

# An unpaced stream lets other requests in after this many events.
EVENTS_PER_TURN: Final = 64

REDIRECT_TARGET: Final = "/simulator/redirected"

JSON_HEADERS: Final[list[Header]] = [(b"content-type", b"application/json")]
STREAM_HEADERS: Final[list[Header]] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]
HTML_PAGE: Final = b"<!doctype html><title>LLMTune</title><h1>Back soon</h1>\n"

SPOILED: Final = SimulatorError(500, "INTERNAL_ERROR", "The model failed.")


def refusal(kind: FaultKind, settings: SimulatorSettings) -> SimulatorError | None:
    """The error answer a fault consists of, for those that are nothing else."""
    match kind:
        case FaultKind.RATE_LIMIT:
            return SimulatorError(
                429,
                "RATE_LIMIT_EXCEEDED",
                "Too many requests for this plan.",
                retry_after_s=settings.retry_after_s,
            )
        case FaultKind.CREDITS:
            return SimulatorError(
                402, "INSUFFICIENT_CREDITS", "The workspace has no credits left."
            )
        case FaultKind.ERROR:
            return SPOILED
        case FaultKind.UNAVAILABLE:
            return SimulatorError(
                503, "SERVICE_UNAVAILABLE", "The model is being moved."
            )
        case FaultKind.REDIRECT:
            location = (b"location", REDIRECT_TARGET.encode())
            return SimulatorError(302, "MOVED", "Look elsewhere.", headers=(location,))
        case _:
            return None


class Delivery:
    """Writes answers as the settings' model would."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._ttft_s = settings.ttft_ms / 1000
        self._interval_s = settings.token_interval_s
        self._is_paced = self._ttft_s > 0 or self._interval_s > 0
        self._stall_s = settings.stall_ms / 1000

    async def give(
        self, exchange: Exchange, reply: AnyReply, fault: FaultKind | None = None
    ) -> None:
        if fault is FaultKind.SLOW_HEADERS:
            await exchange.pause(self._settings.slow_headers_ms / 1000)
            fault = None
        if fault is FaultKind.CONTENT_TYPE:
            await self._write_html(exchange)
        elif isinstance(reply, StreamedReply):
            await self._stream(exchange, reply.events(), fault)
        elif fault is None:
            await self._write(exchange, reply)
        else:
            await self._spoil(exchange, reply, fault)

    async def refuse(self, exchange: Exchange) -> NoReturn:
        await exchange.drop(reset=True)
        raise ClientLeft

    async def stall(self, exchange: Exchange) -> NoReturn:
        """Say nothing (more) until the client leaves or the bound is reached."""
        await exchange.pause(self._stall_s)
        await exchange.drop(reset=False)
        raise ClientLeft

    async def _write(self, exchange: Exchange, reply: Reply) -> None:
        if self._is_paced and reply.written_tokens is not None:
            duration_s = self._ttft_s + reply.written_tokens * self._interval_s
            await exchange.pause(duration_s)
        await exchange.start(reply.status, headers_of(reply))
        await exchange.write(reply.body, more=False)

    async def _write_html(self, exchange: Exchange) -> None:
        length = b"%d" % len(HTML_PAGE)
        headers = [(b"content-type", b"text/html"), (b"content-length", length)]
        await exchange.start(200, headers)
        await exchange.write(HTML_PAGE, more=False)

    async def _spoil(self, exchange: Exchange, reply: Reply, fault: FaultKind) -> None:
        half = reply.body[: len(reply.body) // 2]
        if fault is FaultKind.MALFORMED:
            await self._write(exchange, Reply(half, status=reply.status))
            return
        if fault is FaultKind.STREAM_ERROR:
            body = error_body(SPOILED, self._settings.error_shape)
            await self._write(exchange, Reply(body, status=500))
            return
        # The length promises the whole body.
        await exchange.start(reply.status, headers_of(reply))
        await exchange.write(half, more=True)
        if fault is FaultKind.STALL_STREAM:
            await self.stall(exchange)
        await exchange.drop(reset=False)

    async def _stream(
        self, exchange: Exchange, events: Iterable[bytes], fault: FaultKind | None
    ) -> None:
        await exchange.start(200, STREAM_HEADERS)
        begun = asyncio.get_running_loop().time()
        for number, event in enumerate(events):
            await self._keep_pace(exchange, begun, number)
            if fault is not None and number == EVENTS_BEFORE_FAULT:
                await self._break_stream(exchange, event, fault)
                return
            await exchange.write(event, more=True)
        await exchange.write(b"", more=False)

    async def _keep_pace(self, exchange: Exchange, begun: float, number: int) -> None:
        """Wait until an event is due, counted from the start: no delays add up."""
        if self._is_paced:
            due = begun + self._ttft_s + number * self._interval_s
            wait_s = due - asyncio.get_running_loop().time()
            if wait_s > 0:
                await exchange.pause(wait_s)
        elif number % EVENTS_PER_TURN == EVENTS_PER_TURN - 1:
            await asyncio.sleep(0)

    async def _break_stream(
        self, exchange: Exchange, event: bytes, fault: FaultKind
    ) -> None:
        match fault:
            case FaultKind.STALL_STREAM:
                await self.stall(exchange)
            case FaultKind.CUT:
                await exchange.drop(reset=False)
            case FaultKind.MALFORMED:
                # Its end is missing, the blank line included; the body ends properly.
                await exchange.write(event[: len(event) // 2], more=False)
            case _:
                body = error_body(SPOILED, self._settings.error_shape)
                await exchange.write(b"data: " + body + b"\n\n", more=False)


def headers_of(reply: Reply) -> list[Header]:
    length = b"%d" % len(reply.body)
    return [*JSON_HEADERS, (b"content-length", length), *reply.headers]
