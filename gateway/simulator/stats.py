"""What the simulator has seen and done since it started."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping

import msgspec


class Stats(msgspec.Struct, kw_only=True):
    """Running counts; the fields, in order, are the body of `GET /simulator/stats`."""

    requests: Counter[str] = msgspec.field(default_factory=Counter)
    # Requests that arrived and are not yet answered to the end.
    open: int = 0
    # Clients that left before their answer was complete.
    disconnects: int = 0
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    replays: int = 0
    webhooks_sent: int = 0
    webhooks_retried: int = 0
    # Given up after the last retry, or dropped because too many were waiting.
    webhooks_failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def snapshot(self) -> Mapping[str, object]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


class StatsBoard:
    """
    The counts, and a way to wait for them to change.

    Every change goes through `changed`, so a waiter needs no polling.
    """

    def __init__(self) -> None:
        self.counts = Stats()
        self._waiting: list[asyncio.Future[None]] = []

    def opened(self, route: str) -> None:
        self.counts.requests[route] += 1
        self.counts.open += 1
        self.changed()

    def closed(self) -> None:
        self.counts.open -= 1
        self.changed()

    def disconnected(self) -> None:
        self.counts.disconnects += 1
        self.changed()

    def faulted(self, kind: str) -> None:
        self.counts.faults[kind] += 1
        self.changed()

    def used(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.counts.prompt_tokens += prompt_tokens
        self.counts.completion_tokens += completion_tokens

    def changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_until(
        self, holds: Callable[[Stats], bool], timeout_s: float = 5.0
    ) -> Stats:
        """Return once `holds(stats)`; a TimeoutError names the counts it saw last."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds(self.counts):
                    future = asyncio.get_running_loop().create_future()
                    self._waiting.append(future)
                    await future
        except TimeoutError as error:
            message = f"still waiting after {timeout_s} s: {self.counts}"
            raise TimeoutError(message) from error
        return self.counts
