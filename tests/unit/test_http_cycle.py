"""What a request's cycle owes to applications that answer in ASGI's messages."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.http_cycle import Cycle
from gateway.wire import RequestHead


class Full:
    """A socket whose client reads nothing more."""

    write_paused = True

    def __init__(self) -> None:
        self.is_cut = False
        self.written = b""

    async def drain(self) -> None:
        await asyncio.Event().wait()

    def write(self, data: bytes) -> None:
        self.written += data

    def abort(self) -> None:
        self.is_cut = True


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    """The router's 404 has no exchange to mind the clock."""
    full: Any = Full()
    cycle = Cycle(
        RequestHead("GET", "1.1", "/", b"/", b"", [], None, None),
        full,
        full,
        default_headers=[],
        keep_alive=True,
        write_timeout_s=0.01,
        on_complete=lambda: None,
    )

    async with asyncio.timeout(5):
        await cycle.send({"type": "http.response.start", "status": 404})

    assert full.is_cut
    assert full.written == b""
