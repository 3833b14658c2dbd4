"""Whose time a body's deadline counts."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from gateway.errors import RequestTimedOut
from gateway.exchange import Exchange
from tests.gateway_under_test import until
from tests.patient_wire import PatientWire

TIMEOUT_S: Final = 0.05
PIECES: Final = 3


class PiecewiseWire(PatientWire):
    """A client whose pieces are there at once, or never."""

    def __init__(self, *, stops_after: int = PIECES) -> None:
        super().__init__()
        self.headers = {b"transfer-encoding": b"chunked"}
        self._left = PIECES
        self._stops_at = PIECES - stops_after

    async def receive(self) -> dict[str, Any]:
        if self._left == self._stops_at:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self._left -= 1
        return {"type": "http.request", "body": b"x", "more_body": self._left > 0}


async def stored(at_s: float) -> None:
    """When a storage has taken a piece."""
    loop = asyncio.get_running_loop()
    await until(lambda: loop.time() >= at_s, "the storage")


async def test_a_slow_reader_is_not_the_clients_fault() -> None:
    """A storage that stalls is no 408."""
    loop, received = asyncio.get_running_loop(), b""
    exchange = Exchange(PiecewiseWire(), write_timeout_s=1)

    async for piece in exchange.stream_body(99, TIMEOUT_S):
        received += piece
        await stored(loop.time() + 2 * TIMEOUT_S)

    assert b"x" * PIECES == received


async def test_a_slow_client_is_told() -> None:
    exchange = Exchange(PiecewiseWire(stops_after=2), write_timeout_s=1)
    with pytest.raises(RequestTimedOut):
        async for _ in exchange.stream_body(99, TIMEOUT_S):
            pass
