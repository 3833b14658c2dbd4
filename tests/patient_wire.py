"""A client's end of an exchange, for tests of what is below HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.errors import Header
from gateway.wire import RequestHead


class PatientWire:
    """A client that takes whatever it is sent, and makes each write wait."""

    is_paused = True
    is_gone = False

    def __init__(self) -> None:
        self.head = RequestHead("POST", "1.1", "/", b"/", b"", [], None, None)
        self.headers: dict[bytes, bytes] = {}

    async def receive(self) -> dict[str, Any]:
        raise AssertionError("the body is here already")

    async def send(self, message: dict[str, Any]) -> None:
        raise AssertionError("answered by Litestar")

    async def catch_up(self, timeout_s: float) -> None:
        del timeout_s
        # As a real server does whenever its socket is full.
        await asyncio.sleep(0)

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """It never leaves."""

    def take_body(self) -> bytes | None:
        return None

    def begin(self, status: int, headers: list[Header]) -> None:
        pass

    def write(self, data: bytes, *, more: bool) -> None:
        pass

    def push(self, data: bytes) -> bool:
        return False

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        pass

    def abort(self) -> None:
        raise AssertionError("it reads fast enough")
