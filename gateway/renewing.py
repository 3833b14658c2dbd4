"""Leases and claims renewed while they are held: one task for all of a kind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

# Three chances to renew within one ttl: two may be lost to a slow store.
RENEWALS_PER_TTL: Final = 3

# In one write to the store, and answered well within its time-out: thousands at once
# would miss it together, every round, with every admission between them.
RENEWED_TOGETHER: Final = 64

Held = TypeVar("Held")


async def keep_renewing(
    held: Callable[[], Iterable[Held]],
    renew: Callable[[Held], Awaitable[None]],
    *,
    ttl_ms: int,
) -> None:
    """Renew whatever is held, until cancelled; `renew` does not raise."""
    while True:
        await asyncio.sleep(ttl_ms / 1000 / RENEWALS_PER_TTL)
        waiting = list(held())
        for first in range(0, len(waiting), RENEWED_TOGETHER):
            batch = waiting[first : first + RENEWED_TOGETHER]
            await asyncio.gather(*map(renew, batch))
