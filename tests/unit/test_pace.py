"""Background work stays away for long, unless nobody comes."""

from __future__ import annotations

import asyncio
import itertools
import time

from gateway.batches.pace import BUSY_SHARE, PIECE_S, Pace


def work(seconds: float) -> None:
    """Take the core for so long."""
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


async def worked_for(pace: Pace, pieces: int) -> float:
    """How long so many pieces took in all."""
    began_s = time.perf_counter()
    async with pace:
        for _ in range(pieces):
            work(PIECE_S)
            await pace.turn()
    return time.perf_counter() - began_s


async def test_while_requests_come_it_rests_nine_times_as_long() -> None:
    pace = Pace(itertools.count().__next__)
    assert await worked_for(pace, 10) >= 10 * PIECE_S / BUSY_SHARE


async def test_one_works_at_a_time() -> None:
    """Ten batches take no more of the core than one."""
    pace = Pace(itertools.count().__next__)
    began_s = time.perf_counter()
    await asyncio.gather(*(worked_for(pace, 2) for _ in range(5)))
    assert time.perf_counter() - began_s >= 10 * PIECE_S / BUSY_SHARE


async def test_others_have_their_turns_meanwhile() -> None:
    """Also where nobody is served: the loop has more to do than requests."""
    pace, turns = Pace(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await worked_for(pace, 10)
    task.cancel()
    assert turns >= 10


async def test_who_is_cancelled_leaves_it_to_others() -> None:
    pace = Pace(itertools.count().__next__)

    async def work_on() -> None:
        async with pace:
            while True:
                work(PIECE_S)
                await pace.turn()

    task = asyncio.create_task(work_on())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(5):
        await worked_for(Pace(), 1)
        await worked_for(pace, 1)
