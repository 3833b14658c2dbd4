"""
A stream that is read and watched until it ends or is dropped.

Reading goes on in a task, so that the end of an answer is seen when it comes and an
open stream is never one that merely was not looked at.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Final

import httpx

from gateway.conformance.observations import Attempt, StreamSeen

CLOSE_TIMEOUT_S: Final = 2.0


class OpenStream:
    """An admitted stream. `close` drops the connection if the answer still runs."""

    def __init__(self, answer: httpx.Response, attempt: Attempt) -> None:
        self._answer = answer
        self.attempt = attempt
        self._opened_s = attempt.answered_s
        self._last_s = self._alive_s = attempt.answered_s
        self.is_dropped = False
        self._progress = asyncio.Event()
        # Of a lease nobody has given back yet, the end is unknown.
        attempt.ended_s = float("inf")
        self._reading = asyncio.create_task(self._read())

    @property
    def is_open(self) -> bool:
        return not self._reading.done()

    @property
    def alive_s(self) -> float:
        return self._alive_s

    @property
    def seen(self) -> StreamSeen:
        return StreamSeen(
            replica=self.attempt.replica,
            opened_s=self._opened_s,
            alive_s=self._alive_s,
            was_dropped=self.is_dropped,
        )

    async def wait_alive_after(self, instant_s: float, timeout_s: float) -> None:
        """Until an event proves it open after that instant, or it ends."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.is_open and self._alive_s <= instant_s:
                    self._progress.clear()
                    await self._progress.wait()

    async def read_to_end(self, timeout_s: float) -> None:
        """Until the answer is complete."""
        await asyncio.wait([self._reading], timeout=timeout_s)

    async def close(self) -> None:
        """Give the connection back, or drop it. Safe to call twice."""
        if self._answer.is_closed and not self.is_open:
            return
        self.is_dropped = self.is_open
        self._reading.cancel()
        await asyncio.wait([self._reading])
        with suppress(httpx.HTTPError, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._answer.aclose()
        self._end()

    async def _read(self) -> None:
        try:
            async for line in self._answer.aiter_lines():
                if line.startswith("data: "):
                    self._note(line.removeprefix("data: "))
        except httpx.HTTPError as error:
            self.attempt.problem = str(error) or type(error).__name__
        finally:
            # Cancelled by `close`, the connection is still to be dropped.
            if self._answer.is_closed:
                self._end()
            self._progress.set()

    def _note(self, data: str) -> None:
        # The event before this one was not the last.
        self._alive_s, self._last_s = self._last_s, time.perf_counter()
        self._progress.set()
        if '"usage"' in data:
            with suppress(ValueError, LookupError, TypeError):
                self.attempt.total_tokens = json.loads(data)["usage"]["total_tokens"]

    def _end(self) -> None:
        if self.attempt.ended_s == float("inf"):
            self.attempt.ended_s = time.perf_counter()
