"""The worker of due work: exactly one at it, and somebody always in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from gateway.background.working import FAULT_MS, Drive, Outcome, Worker
from gateway.storage.port import StorageUnavailable
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobsUnavailable
from tests.gateway_under_test import until

QUEUE: Final = "work"
LEASE_MS: Final = 60


class Clock:
    """The time, and what a test lets pass."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return time.monotonic_ns() // 1_000_000 + self.ahead_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> MemoryJobs:
    return MemoryJobs(clock)


@asynccontextmanager
async def working(
    jobs: MemoryJobs, drive: Drive, owner: str = "me", lease_ms: int = LEASE_MS
) -> AsyncIterator[Worker]:
    worker = Worker(jobs, QUEUE, owner, drive, lease_ms=lease_ms, idle_s=0.01)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        task.cancel()
        await asyncio.wait([task])


async def owned(jobs: MemoryJobs) -> list[str]:
    """What anybody could have now."""
    return list(await jobs.claim(QUEUE, "anybody", lease_ms=1000, most=10))


async def test_what_is_done_is_not_done_again(jobs: MemoryJobs) -> None:
    done: list[str] = []

    async def drive(item: str) -> int | None:
        done.append(item)
        return None if len(done) >= 3 else 0

    await jobs.schedule(QUEUE, "a")
    async with working(jobs, drive):
        await until(lambda: len(done) >= 3, "three looks")
        await jobs.schedule(QUEUE, "b")
        await until(lambda: len(done) == 4, "another item")

    assert ["a", "a", "a", "b"] == done


async def test_two_workers_are_never_at_one_item(jobs: MemoryJobs) -> None:
    """Although each look takes longer than a lease: it is renewed."""
    at_it, most_at_it, looks = 0, 0, 0

    async def drive(item: str) -> int | None:
        nonlocal at_it, most_at_it, looks
        at_it, looks = at_it + 1, looks + 1
        most_at_it = max(most_at_it, at_it)
        await asyncio.sleep(2 * LEASE_MS / 1000)
        at_it -= 1
        return 0

    await jobs.schedule(QUEUE, "a")
    async with working(jobs, drive, "me"), working(jobs, drive, "you"):
        await until(lambda: looks >= 4, "four looks")

    assert 1 == most_at_it


async def test_who_is_stopped_leaves_its_work_to_others_at_once(
    jobs: MemoryJobs,
) -> None:
    """A replica that is replaced keeps nobody waiting for its lease."""
    begun = asyncio.Event()

    async def drive(item: str) -> int | None:
        begun.set()
        await asyncio.Event().wait()
        return None

    await jobs.schedule(QUEUE, "a")
    async with working(jobs, drive, lease_ms=600_000):
        await asyncio.wait_for(begun.wait(), 5)
        assert [] == await owned(jobs)

    assert ["a"] == await owned(jobs)


async def test_who_loses_its_lease_stops(jobs: MemoryJobs) -> None:
    """Another goes on with it by then."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def drive(item: str) -> int | None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return None

    await jobs.schedule(QUEUE, "a")
    async with working(jobs, drive):
        await asyncio.wait_for(begun.wait(), 5)
        # As if it had stood still for longer than its lease.
        await jobs.put_off(QUEUE, "a", "me", in_ms=0)
        assert ["a"] == await owned(jobs)
        await asyncio.wait_for(stopped.wait(), 5)


@pytest.mark.parametrize("fault", [RuntimeError("ours"), JobsUnavailable()])
async def test_a_fault_puts_work_off_and_takes_nobody_with_it(
    jobs: MemoryJobs, clock: Clock, fault: Exception
) -> None:
    failed, done = asyncio.Event(), list[str]()

    async def drive(item: str) -> int | None:
        if item == "bad":
            failed.set()
            raise fault
        done.append(item)
        return None

    await jobs.schedule(QUEUE, "bad")
    async with working(jobs, drive, lease_ms=600_000):
        await asyncio.wait_for(failed.wait(), 5)
        await jobs.schedule(QUEUE, "good")
        await until(lambda: done == ["good"], "the other")

    assert "bad" not in await owned(jobs)
    clock.ahead_ms += FAULT_MS
    assert "bad" in await owned(jobs)


ENDS: Final[list[tuple[Outcome, int | Exception | None]]] = [
    ("done", None),
    ("again", 1000),
    ("again", 0),
    ("failed", RuntimeError("ours")),
    ("store_unavailable", JobsUnavailable()),
    ("storage_unavailable", StorageUnavailable("full")),
]


@pytest.mark.parametrize(("outcome", "end"), ENDS)
async def test_how_a_look_ended_is_counted(
    jobs: MemoryJobs, outcome: Outcome, end: int | Exception | None
) -> None:
    """Once, whatever it was."""
    counted: list[Outcome] = []

    async def drive(item: str) -> int | None:
        if isinstance(end, Exception):
            raise end
        return end

    await jobs.schedule(QUEUE, "a")
    worker = Worker(jobs, QUEUE, "me", drive, idle_s=0.01, count=counted.append)
    task = asyncio.create_task(worker.run())
    await until(lambda: bool(counted), "an end")
    task.cancel()
    await asyncio.wait([task])

    assert counted[0] == outcome
    # What is due at once is looked at again before anybody stops it.
    assert len(counted) == 1 or end == 0


async def test_a_look_that_was_cut_off_is_not_counted_and_a_lost_one_is(
    jobs: MemoryJobs,
) -> None:
    """Whoever is stopped has neither done it nor failed."""
    begun = asyncio.Event()
    counted: list[Outcome] = []

    async def drive(item: str) -> int | None:
        begun.set()
        await asyncio.Event().wait()
        return None

    worker = Worker(
        jobs, QUEUE, "me", drive, lease_ms=LEASE_MS, idle_s=600, count=counted.append
    )
    await jobs.schedule(QUEUE, "a")
    task = asyncio.create_task(worker.run())
    await asyncio.wait_for(begun.wait(), 5)
    begun.clear()
    await jobs.put_off(QUEUE, "a", "me", in_ms=0)
    assert ["a"] == await owned(jobs)
    await until(lambda: counted == ["lost"], "what another has")
    await jobs.schedule(QUEUE, "b")
    worker.nudge()
    await asyncio.wait_for(begun.wait(), 5)
    task.cancel()
    await asyncio.wait([task])

    assert counted == ["lost"]


async def test_a_process_that_was_stopped_does_not_begin_twice(
    jobs: MemoryJobs, clock: Clock
) -> None:
    """Its lease is over when it wakes, and what it claims it is at already."""
    begun, may_end = list[str](), asyncio.Event()

    async def drive(item: str) -> int | None:
        begun.append(item)
        await may_end.wait()
        return None

    await jobs.schedule(QUEUE, "a")
    async with working(jobs, drive, lease_ms=60_000):
        await until(lambda: begun == ["a"], "a look")
        clock.ahead_ms += 60_000
        await jobs.schedule(QUEUE, "b")
        # Claimed together, as both are due.
        await until(lambda: "b" in begun, "another item")
        assert ["a", "b"] == begun
        may_end.set()


async def test_a_store_that_answers_nonsense_ends_no_worker() -> None:
    """Nobody would begin it again."""
    begun = list[str]()

    class Confused(MemoryJobs):
        async def claim(self, *args: Any, **named: Any) -> Sequence[str]:
            if not begun:
                begun.append("nonsense")
                raise ValueError("nonsense")
            return await super().claim(*args, **named)

    async def drive(item: str) -> int | None:
        begun.append(item)
        return None

    confused = Confused(Clock())
    await confused.schedule(QUEUE, "a")
    async with working(confused, drive):
        await until(lambda: begun == ["nonsense", "a"], "a look")
