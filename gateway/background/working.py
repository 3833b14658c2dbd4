"""
The worker: claims what is due, holds it while it is worked on, and lets go on any end.

One in each process. Of all replicas exactly one has an item at a time; when it dies,
another has it one lease later.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Literal, TypeAlias

from gateway.storage.port import StorageUnavailable
from policies.jobs.port import JobStore, JobsUnavailable

logger = logging.getLogger(__name__)

LEASE_MS: Final = 15_000
RENEWALS_PER_LEASE: Final = 3
# Items of one process at a time: each is mostly waiting for somebody.
MAX_TOGETHER: Final = 8
# Whoever has nothing to do asks again so soon.
IDLE_S: Final = 1.0
# After a fault of ours or of the store: soon enough, and no storm.
FAULT_MS: Final = 5_000
# What letting go may take of a shutdown.
LET_GO_S: Final = 1.0

# done    nothing more to do
# again   in so long as it said
# lost    another has it
Outcome: TypeAlias = Literal[
    "done", "again", "lost", "store_unavailable", "storage_unavailable", "failed"
]

# One look at an item; in how many ms to look again, or None for never.
Drive = Callable[[str], Awaitable[int | None]]


class _LostItem(Exception):
    """It is another's by now."""


class Worker:
    """Works one queue off for as long as it runs."""

    def __init__(
        self,
        jobs: JobStore,
        queue: str,
        owner: str,
        drive: Drive,
        *,
        lease_ms: int = LEASE_MS,
        idle_s: float = IDLE_S,
        together: int = MAX_TOGETHER,
        count: Callable[[Outcome], None] = lambda _: None,
    ) -> None:
        """`count` hears how each look ended that was not cut off."""
        self._jobs = jobs
        self._queue = queue
        self._owner = owner
        self._drive = drive
        self._lease_ms = lease_ms
        self._idle_s = idle_s
        # Its own: the module's is anybody's to seed.
        self._random = random.Random()  # noqa: S311 - spreads, guards nothing
        self._together = together
        self._count = count
        self._tasks: set[asyncio.Task[None]] = set()
        self._items: set[str] = set()
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Something may be due right now."""
        self._nudged.set()

    async def run(self) -> None:
        """Until cancelled; then what was held is anybody's at once."""
        try:
            while True:
                claimed = await self._claim()
                # A process that was stopped for longer than a lease is given what it
                # still works on: that goes on, and is not begun beside itself.
                for item in [each for each in claimed if each not in self._items]:
                    self._items.add(item)
                    task = asyncio.create_task(self._work(item))
                    self._tasks.add(task)
                    task.add_done_callback(self._done)
                if not claimed:
                    await self._idle()
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._nudged.set()

    async def _claim(self) -> Sequence[str]:
        most = self._together - len(self._tasks)
        if most <= 0:
            return ()
        try:
            return await self._jobs.claim(
                self._queue, self._owner, lease_ms=self._lease_ms, most=most
            )
        except JobsUnavailable:
            return ()
        except Exception:
            # Whatever it was: a worker that ends is missed by nobody.
            logger.exception("claiming work failed")
            return ()

    async def _idle(self) -> None:
        self._nudged.clear()
        # Replicas that were started together do not ask together.
        wait_s = self._idle_s * (0.5 + self._random.random())
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._nudged.wait()

    async def _work(self, item: str) -> None:
        again_ms: int | None = 0
        try:
            again_ms, outcome = await self._look(item)
            self._count(outcome)
        finally:
            self._items.discard(item)
            # Also when cancelled, and then at once: another may go on.
            with suppress(JobsUnavailable, TimeoutError):
                await asyncio.shield(self._let_go(item, again_ms))

    async def _look(self, item: str) -> tuple[int | None, Outcome]:
        """In how many ms to look again, or None for never; and how it ended."""
        facts = {"item": item}
        try:
            again_ms = await self._held(item)
        except _LostItem:
            logger.warning("work was lost", extra={"facts": facts})
            return FAULT_MS, "lost"
        except JobsUnavailable as error:
            logger.warning("work has to wait: %s", error)
            return FAULT_MS, "store_unavailable"
        except StorageUnavailable as error:
            logger.warning("work has to wait: %s", error)
            return FAULT_MS, "storage_unavailable"
        except Exception:
            logger.exception("work failed", extra={"facts": facts})
            return FAULT_MS, "failed"
        return again_ms, "done" if again_ms is None else "again"

    async def _let_go(self, item: str, again_ms: int | None) -> None:
        async with asyncio.timeout(LET_GO_S):
            if again_ms is None:
                await self._jobs.finish(self._queue, item, self._owner)
            else:
                await self._jobs.put_off(self._queue, item, self._owner, in_ms=again_ms)

    async def _held(self, item: str) -> int | None:
        """Work on an item while it is ours; who loses it stops."""
        work = asyncio.ensure_future(self._drive(item))
        renewing = asyncio.ensure_future(self._keep(item))
        try:
            await asyncio.wait({work, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise _LostItem
            return work.result()
        finally:
            for task in (work, renewing):
                task.cancel()
            await asyncio.gather(work, renewing, return_exceptions=True)

    async def _keep(self, item: str) -> None:
        """Renew until it is another's."""
        loop = asyncio.get_running_loop()
        renewed_s = loop.time()
        while True:
            await asyncio.sleep(self._lease_ms / 1000 / RENEWALS_PER_LEASE)
            try:
                is_ours = await self._jobs.renew(
                    self._queue, item, self._owner, lease_ms=self._lease_ms
                )
            except JobsUnavailable:
                # Held on a store that does not answer, it is lost when it would lapse.
                is_ours = loop.time() - renewed_s < self._lease_ms / 1000
            else:
                renewed_s = loop.time()
            if not is_ours:
                return
