"""
The end of an exchange that records: a stream's client reads what was recorded.

Whoever runs the request writes here and waits for nobody: neither for its own client,
which may lag behind or leave, nor for those who follow.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from gateway.errors import ClientGone, Header
from gateway.exchange import Exchange
from gateway.replay.delivery import Reader, deliver, end_in
from gateway.replay.recording import Recording
from gateway.sse import PING
from gateway.wire import RequestHead, Wire
from policies.replay.port import AnswerHead, ReplayUnavailable

# What of an answer's head is the answer's own: the rest is of its moment and caller.
KEPT_HEADERS: Final = frozenset(
    {b"content-type", b"cache-control", b"x-accel-buffering", b"openai-processing-ms"}
)


class RecordingWire:
    """Implements `Wire` over another's."""

    def __init__(
        self,
        wire: Wire,
        recording: Recording,
        exchange: Exchange,
        *,
        write_timeout_s: float,
        ping_interval_s: float,
    ) -> None:
        self._wire = wire
        self._recording = recording
        self._exchange = exchange
        self._write_timeout_s = write_timeout_s
        self._ping_interval_s = ping_interval_s
        # Writes a stream to its client.
        self.delivery: asyncio.Task[bool] | None = None

    def begin(self, status: int, headers: list[Header]) -> None:
        self._recording.begin(self._kept_head(status, headers, is_stream=True))
        self._wire.begin(status, headers)
        # Its place is taken before anything comes that could be forgotten.
        reader = self._recording.read(is_own=True)
        self.delivery = asyncio.create_task(self._deliver(reader))
        self.delivery.add_done_callback(lambda _: reader.close())

    async def _deliver(self, reader: Reader) -> bool:
        """Whether its client was sent all of it."""
        wire, is_whole = self._wire, False
        with suppress(ClientGone, ReplayUnavailable):
            is_whole = await deliver(
                reader,
                wire,
                None,
                write_timeout_s=self._write_timeout_s,
                ping_interval_s=self._ping_interval_s,
            )
        if is_whole:
            end_in(wire, None)
        else:
            # Half an answer; cut short, it is at least not taken for a whole one.
            wire.abort()
        return is_whole

    def write(self, data: bytes, *, more: bool) -> None:
        # Pings are of the silence that they break: each client's own.
        if data != PING:
            self._recording.add(data)
        if not more:
            self._recording.complete(self._exchange.record.outcome)

    def push(self, data: bytes) -> bool:
        self._recording.add(data)
        return not self._recording.is_full

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        head = self._kept_head(status, headers, is_stream=False)
        self._recording.whole(head, body, self._exchange.record.outcome)
        self._wire.answer(status, headers, body)

    def _kept_head(
        self, status: int, headers: list[Header], *, is_stream: bool
    ) -> AnswerHead:
        kept = tuple(header for header in headers if header[0] in KEPT_HEADERS)
        return AnswerHead(status, kept, self._exchange.request_id, is_stream)

    @property
    def is_paused(self) -> bool:
        return self._recording.is_full

    @property
    def is_gone(self) -> bool:
        return False

    async def catch_up(self, timeout_s: float) -> None:
        """
        Until there is room again, however long that takes.

        Its client is held to the time-out by who delivers; as long as it reads on, or
        the store takes what comes, this is getting nearer.
        """
        del timeout_s
        await self._recording.room()

    def abort(self) -> None:
        if self.delivery is not None:
            self.delivery.cancel()
        self._wire.abort()

    # What is the client's own.

    @property
    def head(self) -> RequestHead:
        return self._wire.head

    @property
    def headers(self) -> dict[bytes, bytes]:
        return self._wire.headers

    async def receive(self) -> dict[str, Any]:
        return await self._wire.receive()

    async def send(self, message: dict[str, Any]) -> None:
        await self._wire.send(message)

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        self._wire.when_gone(tell)

    def take_body(self) -> bytes | None:
        return self._wire.take_body()
