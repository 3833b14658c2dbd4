"""Work that goes on after the request that asked for it was answered."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

# Jobs under way at once, batches and fine-tunes together; the oldest are given up for
# new ones, so that a soak test cannot make the simulator grow.
MAX_JOBS: Final = 1_000


class JobTasks:
    """Background tasks by job id."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MAX_JOBS:
            self.stop(next(iter(self._tasks)))
        task = asyncio.create_task(work, name=job_id)
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job_id, None))

    def stop(self, job_id: str) -> None:
        task = self._tasks.pop(job_id, None)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
