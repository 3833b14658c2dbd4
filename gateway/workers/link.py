"""
A worker's end of the channel: it says what it counts, and asks what all have counted.

Whatever becomes of the supervisor, nobody waits here without a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

import msgspec

from gateway.errors import MetricsUnavailable
from gateway.telemetry.exposition import Families, families_of, snapshot_of
from gateway.telemetry.merging import Snapshot
from gateway.telemetry.metrics import Telemetry
from gateway.workers.messages import (
    Ask,
    BrokenChannel,
    Counted,
    Frames,
    OfWorker,
    Scrape,
    Totals,
    ToWorker,
    frame_of,
)

logger = logging.getLogger(__name__)

# Two rounds of the census, the one that runs and the next, and a busy machine.
TOTALS_WITHIN_S: Final = 4.0
# What is left to send at the end is read by a process that does little else.
FLUSH_WITHIN_S: Final = 2.0

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(ToWorker).decode
_decode_snapshot: Final = msgspec.msgpack.Decoder(Snapshot).decode


class SupervisorGone(Exception):
    """The channel has ended."""


class Link(asyncio.Protocol):
    """The channel, inside a worker's event loop."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._telemetry: Telemetry | None = None
        self._asked = 0
        # Who waits for totals, by the number they were asked for with.
        self._waiting: dict[int, asyncio.Future[Snapshot]] = {}

    @asynccontextmanager
    async def connected(self, sock: socket.socket) -> AsyncIterator[None]:
        """Speak over this socket; at the end, all that was said has been sent."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=sock)
        try:
            yield
        finally:
            if self._transport is not None:
                # Sends what is still held, then tells `lost`.
                self._transport.close()
                await asyncio.wait([self.lost], timeout=FLUSH_WITHIN_S)

    def follow(self, telemetry: Telemetry) -> None:
        """What this worker counts."""
        self._telemetry = telemetry

    def say(self, message: OfWorker) -> None:
        """Tell the supervisor; lost where there is none."""
        if self._transport is None or self._transport.is_closing():
            return
        try:
            self._transport.write(frame_of(message))
        except BrokenChannel as error:
            logger.error("the supervisor cannot be told: %s", error)

    def say_count(self, round_number: int = 0) -> None:
        """Say what this worker has counted until now."""
        if self._telemetry is None:
            return
        try:
            snapshot = _encode(snapshot_of(self._telemetry.registry.collect()))
        except Exception:
            # A bug in a metric must not end the channel, and so the worker.
            logger.exception("what was counted cannot be told")
            return
        self.say(Counted(round_number, msgspec.Raw(snapshot)))

    async def families(self) -> Families:
        """The metrics of all workers; MetricsUnavailable without the supervisor."""
        try:
            async with asyncio.timeout(TOTALS_WITHIN_S):
                return families_of(await self._totals())
        except (TimeoutError, SupervisorGone) as error:
            reason = str(error) or "no answer in time"
            facts = {"reason": reason}
            logger.warning("metrics are not to be had", extra={"facts": facts})
            # Never this worker's own: counters that fall have begun anew for
            # Prometheus, and a rate would show all that was ever counted as new.
            raise MetricsUnavailable(
                "The supervisor of the workers does not answer."
            ) from error

    async def _totals(self) -> Snapshot:
        if self._transport is None or self._transport.is_closing():
            raise SupervisorGone("the supervisor is gone")
        self._asked += 1
        number = self._asked
        told: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._waiting[number] = told
        self.say(Scrape(number))
        try:
            return await told
        finally:
            del self._waiting[number]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._frames.feed(data):
                self._hear(_decode(payload))
        except (BrokenChannel, msgspec.DecodeError):
            logger.exception("the supervisor cannot be understood")
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        for told in self._waiting.values():
            if not told.done():
                told.set_exception(SupervisorGone("the supervisor is gone"))

    def _hear(self, message: ToWorker) -> None:
        match message:
            case Ask(round_number):
                self.say_count(round_number)
            case Totals(number, snapshot):
                totals = _decode_snapshot(snapshot)
                # Who asked later than this is told of a later moment.
                for asked, told in self._waiting.items():
                    if asked <= number and not told.done():
                        told.set_result(totals)
