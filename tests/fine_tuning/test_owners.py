"""Each replica learns whose the models are, also where the store was away at first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from gateway.fine_tuning.owners import REFRESH_S, Owners
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobsUnavailable, Kept
from tests.proofs.check import until


class LateJobs(MemoryJobs):
    """A store that is away when it is first asked."""

    was_asked = False

    async def page(self, workspace: str, kind: str, **which: Any) -> Sequence[Kept]:
        if not self.was_asked:
            self.was_asked = True
            raise JobsUnavailable
        return await super().page(workspace, kind, **which)


async def test_a_replica_that_knows_nothing_asks_again_soon() -> None:
    """Until then it would hide nothing from anybody."""
    jobs = LateJobs(lambda: 1_800_000_000_000)
    await Owners(jobs).claim("ws-one", "ft/1", 1_800_000_000)
    owners = Owners(jobs)
    learning = asyncio.create_task(owners.keep_fresh())

    async def knows() -> bool:
        return owners.is_anothers("ws-two", "ft/1")

    await until(knows, "the owner to be known", within_s=REFRESH_S / 2)
    learning.cancel()
