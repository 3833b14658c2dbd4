"""
An open stream: metered while it flows, given back exactly once when it ends.

Nothing here is released by a generator's `finally`, which runs when somebody collects
it: `EventStreamResponse` closes the stream itself, shielded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from gateway.errors import (
    ClientGone,
    GatewayError,
    Header,
    UpstreamError,
    envelope,
)
from gateway.exchange import Exchange
from gateway.lease import Lease
from gateway.presence import Presence, shutting_down
from gateway.sse import PING, EventDecoder, ServerSentEvent
from gateway.telemetry.metrics import Telemetry
from gateway.translation.events import DONE
from gateway.translation.faults import error_of_event
from gateway.translation.port import StreamTranslator
from gateway.translation.usage import TokenUsage
from gateway.upstream.client import UpstreamAnswer

STREAM_HEADERS: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx buffers what it proxies unless told not to.
    (b"x-accel-buffering", b"no"),
)


# The last chunk usually comes in the same packet as the marker.
END_OF_BODY_S: Final = 0.1


class MeteredStream:
    """
    The translated frames of one accepted answer, and everything held for it.

    What was translated counts as delivered: the few frames that may still sit in a
    socket buffer when a client leaves have been generated and paid for.
    """

    __slots__ = (
        "_answer",
        "_decoder",
        "_failure",
        "_learn",
        "_lease",
        "_max_event_bytes",
        "_ready",
        "_translator",
        "is_ended",
    )

    def __init__(
        self,
        answer: UpstreamAnswer,
        translator: StreamTranslator,
        lease: Lease,
        *,
        learn: Callable[[TokenUsage], None],
        max_event_bytes: int,
    ) -> None:
        self._answer = answer
        self._translator = translator
        self._lease = lease
        self._learn = learn
        self._max_event_bytes = max_event_bytes
        self._decoder: EventDecoder | None = None
        self._failure: GatewayError | None = None
        # Translated where they arrived, and not handed on there.
        self._ready = b""
        self.is_ended = False
        # Read when the lease is renewed or settled, not per event.
        lease.follow(lambda: translator.usage)
        answer.hand_over()
        lease.hand_over()

    @property
    def usage(self) -> TokenUsage:
        return self._translator.usage

    async def next_frames(self) -> bytes | None:
        """
        The frames that are ready next, None after the end; GatewayError if it fails.
        """
        if self._ready:
            frames, self._ready = self._ready, b""
            return frames
        if self._failure is not None:
            raise self._failure
        if self.is_ended:
            return None
        if self._decoder is None:
            return await self._begin()
        chunk = await self._answer.next_chunk()
        if chunk is not None:
            return self._translated(self._decoder.feed(chunk))
        frames = self._translated(self._decoder.finish())
        return frames if self.is_ended else frames + self._end(is_marked=False)

    async def flow(self, push: Callable[[bytes], bool]) -> None:
        """
        Hand frames to `push` where their events arrive, without a task switch.

        Returns when `push` says no, and for what only `next_frames` tells: the end, a
        failure, an upstream that has to be asked.
        """
        decoder = self._decoder
        if decoder is None or self._failure is not None or self.is_ended:
            return

        one_event, feed = decoder.one_event, self._translator.feed

        def take(chunk: bytes) -> bool:
            data = one_event(chunk)
            if data is not None:
                frames = feed(data)
                return push(frames) if frames else True
            frames = self._translated(decoder.feed(chunk))
            if self.is_ended or self._failure is not None:
                self._ready = frames
                return False
            return push(frames) if frames else True

        await self._answer.pour(take)

    async def _begin(self) -> bytes:
        # The first bytes that are not white space tell JSON from events; content types
        # of models that cannot stream do not.
        first: bytes | None = b""
        while not first:
            first = await self._answer.next_chunk()
            if first is None:
                raise UpstreamError(
                    "The upstream's answer is empty.", fault="cut_short"
                )
            first = first.lstrip()
        if first.startswith(b"{"):
            whole = self._translator.feed_whole(first + await self._answer.read())
            return whole + self._end(is_marked=True)
        if first.startswith(b"<"):
            raise UpstreamError("The upstream sent a page instead of an answer.")
        self._decoder = EventDecoder(max_event_bytes=self._max_event_bytes)
        return self._translated(self._decoder.feed(first))

    def _translated(self, events: Iterable[ServerSentEvent]) -> bytes:
        frames: list[bytes] = []
        try:
            for event in events:
                if event.data.strip() == DONE:
                    frames.append(self._end(is_marked=True))
                    break
                if event.name == b"error":
                    raise error_of_event(event.data)
                frames.append(self._translator.feed(event.data))
        except GatewayError as error:
            # What came before the fault in the same chunk was generated and is sent.
            self._failure = error
            if not any(frames):
                raise
        return b"".join(frames)

    def _end(self, *, is_marked: bool) -> bytes:
        frames = self._translator.finish(is_marked=is_marked)
        self.is_ended = True
        self._learn(self._translator.usage)
        return frames

    def refund(self, error: GatewayError) -> None:
        """Nothing of it reached the client: it is charged as its error says."""
        self._lease.refund(error)

    def settle(self) -> None:
        """Give the lease back: the answer is complete. Safe to call twice."""
        self._lease.end()

    async def read_to_end(self) -> None:
        """
        Read what follows the end marker, so that the connection can be used again.

        Bounded: an upstream that goes on is closed instead.
        """
        with suppress(TimeoutError, UpstreamError):
            async with asyncio.timeout(END_OF_BODY_S):
                while await self._answer.next_chunk() is not None:
                    pass  # nothing after the marker means anything

    async def aclose(self) -> None:
        """Give back the connection, then the lease. Safe to call twice."""
        try:
            await self._answer.aclose()
        finally:
            self._lease.end()


class EventStreamResponse:
    """Sends a metered stream: pings in silences, an honest end, nothing left open."""

    __slots__ = (
        "_began_s",
        "_exchange",
        "_has_text",
        "_is_finished",
        "_last_write_s",
        "_loop",
        "_ping_interval_s",
        "_presence",
        "_stream",
        "_telemetry",
    )

    def __init__(
        self,
        stream: MeteredStream,
        exchange: Exchange,
        presence: Presence,
        *,
        ping_interval_s: float,
        telemetry: Telemetry,
    ) -> None:
        self._stream = stream
        self._exchange = exchange
        self._presence = presence
        self._ping_interval_s = ping_interval_s
        self._telemetry = telemetry
        # When it began to wait for the first event.
        self._began_s = time.perf_counter()
        self._loop = asyncio.get_running_loop()
        self._last_write_s = self._loop.time()
        self._has_text = False
        self._is_finished = False

    async def send(self) -> None:
        """Send everything; GatewayError only as long as nothing was sent."""
        try:
            self._presence.tick(self._ping, first_in_s=self._ping_interval_s)
            while (frames := await self._stream.next_frames()) is not None:
                if self._stream.is_ended:
                    # Before the client sees the end: it may ask again at once, and its
                    # place has to be free by then.
                    self._stream.settle()
                if frames:
                    self._note_first_token()
                    await self._write(frames)
                    frames = b""  # or it would be kept as long as the next ones flow
                    await self._flow()
            await self._finish()
            self._note_flow()
            await self._stream.read_to_end()
        except GatewayError as error:
            if not self._exchange.is_started:
                self._stream.refund(error)
                raise
            await self.fail(error)
        except asyncio.CancelledError:
            if self._presence.is_shutting_down and not self._exchange.is_started:
                # It is told to come back, so it is not charged for coming.
                self._stream.refund(shutting_down())
            raise
        except ClientGone:
            raise  # what the upstream gave was given, whether or not it was read
        except Exception:
            if not self._exchange.is_started:
                # A fault of ours costs the caller nothing.
                self._stream.refund(GatewayError(""))
            raise
        finally:
            # Closing may take a while, and a ping would begin a refused answer.
            self._presence.stop_ticking()
            if self._exchange.is_started:
                self._exchange.used(self._stream.usage)
            await self._stream.aclose()

    async def fail(self, error: GatewayError) -> None:
        """End with one error event if the stream has begun, else with its status."""
        if not self._exchange.is_started:
            raise error
        if self._is_finished:
            return  # the end was sent before anything failed
        self._exchange.note(error)
        await self._write(b"data: " + envelope(error) + b"\n\n")
        await self._finish()

    def _note_first_token(self) -> None:
        # Not when a ping began the answer: the metric is for those who wait for text.
        if not self._has_text:
            self._has_text = True
            exchange, record = self._exchange, self._exchange.record
            now_s = time.perf_counter()
            exchange.waited_s += now_s - self._began_s
            record.first_token_s = took_s = now_s - exchange.started_s
            trace_id = exchange.trace_id
            self._telemetry.first_token(record.model, took_s, trace_id)
            self._telemetry.added(took_s - exchange.waited_s, trace_id)

    def _note_flow(self) -> None:
        first_s = self._exchange.record.first_token_s
        if first_s is not None:
            self._telemetry.streamed(
                self._exchange.record.model,
                self._stream.usage.output_tokens,
                self._exchange.elapsed_s - first_s,
            )

    async def _write(self, frames: bytes) -> None:
        exchange = self._exchange
        if not exchange.is_started:
            # Not before there is something to send: until then a failing upstream can
            # still be answered with its own status, which SDKs retry.
            await exchange.catch_up()
            # A ping may have begun it meanwhile.
            if not exchange.is_started:
                exchange.begin(200, STREAM_HEADERS)
        self._last_write_s = self._loop.time()
        await exchange.write(frames, more=True)

    async def _flow(self) -> None:
        await self._stream.flow(self._push)
        if self._exchange.wire.is_paused:
            # Before more is read, or it would wait here beside the rest.
            await self._exchange.catch_up()

    def _push(self, frames: bytes) -> bool:
        """Send on what has just arrived; False if the client does not keep up."""
        self._last_write_s = self._loop.time()
        return self._exchange.wire.push(frames)

    async def _finish(self) -> None:
        self._is_finished = True
        if self._exchange.trace is not None:
            self._exchange.trace.stream_ended()
        self._presence.conclude()
        await self._exchange.write(b"", more=False)

    def _ping(self) -> float:
        """Break a silence; the seconds until the next look."""
        now_s, exchange = self._loop.time(), self._exchange
        left_s = self._ping_interval_s - (now_s - self._last_write_s)
        if left_s > 0:
            return left_s
        # A client that has not read what was sent before hears no silence.
        if not exchange.wire.is_paused:
            if not exchange.is_started:
                exchange.begin(200, STREAM_HEADERS)
            self._last_write_s = now_s
            exchange.wire.write(PING, more=True)
        return self._ping_interval_s
