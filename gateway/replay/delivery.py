"""An answer on its way to one client, from wherever it is read."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.errors import ClientGone, GatewayError, Outcome, envelope
from gateway.sse import PING
from gateway.wire import Wire
from policies.replay.port import Reading


class Reader(Protocol):
    """A place in an answer that somebody runs, or ran."""

    @property
    def outcome(self) -> Outcome | None:
        """How it came to its end, if it has and that is known here."""
        ...

    def error_for(self, api_key: str) -> GatewayError | None:
        """What was answered instead, if that is known and concerns this key's owner."""
        ...

    async def next(self) -> Reading:
        """What comes next; ReplayUnavailable if the store cannot say."""
        ...

    def close(self) -> None: ...


async def deliver(
    reader: Reader,
    wire: Wire,
    first: Reading | None,
    *,
    write_timeout_s: float,
    ping_interval_s: float,
) -> bool:
    """
    Write a stream, as it comes, to a client whose answer has begun; not its end.

    `first` is what was read already. False if it is given up before its end; ClientGone
    where the client does not read, or has left.
    """
    reading = first
    while True:
        if reading is not None:
            if wire.is_gone:
                raise ClientGone
            if reading.data:
                wire.write(reading.data, more=True)
            if reading.state != "running":
                return reading.state == "complete"
            # Or it would be kept as long as the client, or what follows, takes.
            reading = None
        if wire.is_paused:
            await wire.catch_up(write_timeout_s)
        try:
            async with asyncio.timeout(ping_interval_s):
                reading = await reader.next()
        except TimeoutError:
            # A client that has not read what was sent before hears no silence.
            if not (wire.is_paused or wire.is_gone):
                wire.write(PING, more=True)


async def collect(reader: Reader, first: Reading) -> bytes | None:
    """The body of a whole answer; None if it is given up before its end."""
    body, reading = [first.data], first
    while reading.state == "running":
        reading = await reader.next()
        body.append(reading.data)
    return b"".join(body) if reading.state == "complete" else None


def end_in(wire: Wire, error: GatewayError | None) -> None:
    """End a stream; with an error as its last event where there is one."""
    if error is not None:
        wire.write(b"data: " + envelope(error) + b"\n\n", more=True)
    wire.write(b"", more=False)
