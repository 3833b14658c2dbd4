"""
Connecting to a host of several addresses, one of which may lead nowhere (RFC 8305).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

# RFC 8305, 5: the recommended delay before the next address is tried beside the last.
STAGGER_S: Final = 0.25


class Abortable(Protocol):
    """A connection, as far as a race has to know it."""

    def abort(self) -> None: ...


Racer = TypeVar("Racer", bound=Abortable)


async def first_connected(
    reach: Callable[[str], Awaitable[Racer]], addresses: Sequence[str]
) -> Racer:
    """The connection that is there first; OSError of the last where none comes."""
    if len(addresses) == 1:
        return await reach(addresses[0])
    waiting = list(addresses)
    running: set[asyncio.Future[Racer]] = set()
    problem: BaseException = OSError("the host has no address")
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(reach(waiting.pop(0))))
            patience_s = STAGGER_S if waiting else None
            done, _ = await asyncio.wait(
                running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED
            )
            for attempt in done:
                running.discard(attempt)
                failure = attempt.exception()
                if failure is None:
                    return attempt.result()
                problem = failure
    finally:
        for attempt in running:
            attempt.cancel()
            attempt.add_done_callback(_drop)
    raise problem


def _drop(attempt: asyncio.Future[Racer]) -> None:
    """Close what came too late to be used."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().abort()
