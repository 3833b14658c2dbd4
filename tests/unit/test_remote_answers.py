"""Answers read from the store: one look for all who wait, and patience with it."""

from __future__ import annotations

import asyncio

import pytest

from gateway.replay.remote import LOOK_LAST_S, RemoteAnswers
from policies.replay.memory_replays import MemoryReplays
from policies.replay.port import (
    AnswerHead,
    Bounds,
    Part,
    Reading,
    ReplayDamaged,
    ReplayKey,
    ReplayUnavailable,
)
from tests.gateway_under_test import until

KEY = ReplayKey("acme", "key", "order", b"f" * 32)
HEAD = AnswerHead(200, (), "req_1", is_stream=True)
BOUNDS = Bounds(60_000, 2**20, 2**26)
LEASE_MS = 500


class Watched(MemoryReplays):
    """A store that counts its reads, and fails them when a test says so."""

    def __init__(self) -> None:
        super().__init__(lambda: 0, lease_ms=LEASE_MS)
        self.reads = 0
        self.failure: Exception | None = None

    async def read(
        self, key: ReplayKey, recording: str, offset: int, *, follows: bool = True
    ) -> Reading:
        self.reads += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return await super().read(key, recording, offset, follows=follows)


@pytest.fixture
async def store() -> Watched:
    store = Watched()
    await store.claim(KEY, "run")
    return store


async def test_a_thousand_who_wait_share_one_look(store: Watched) -> None:
    answers = RemoteAnswers(store)
    readers = [answers.read(KEY, "run") for _ in range(1000)]
    waiting = [asyncio.create_task(reader.next()) for reader in readers]
    await until(lambda: store.reads > 1, "a second look")
    await store.append(KEY, "run", Part(0, b"Hello", HEAD), BOUNDS)

    readings = await asyncio.gather(*waiting)

    assert {reading.data for reading in readings} == {b"Hello"}
    assert store.reads < 10


async def test_who_leaves_takes_nothing_from_the_others(store: Watched) -> None:
    answers = RemoteAnswers(store)
    staying, leaving = (
        asyncio.create_task(answers.read(KEY, "run").next()) for _ in "12"
    )
    await until(lambda: store.reads > 0, "a look")
    leaving.cancel()
    await store.append(KEY, "run", Part(0, b"Hello", HEAD), BOUNDS)

    assert (await staying).data == b"Hello"


async def test_nobody_looks_when_the_last_has_left(store: Watched) -> None:
    leaving = asyncio.create_task(RemoteAnswers(store).read(KEY, "run").next())
    await until(lambda: store.reads == 1, "a look")
    leaving.cancel()
    await asyncio.wait([leaving])

    await asyncio.sleep(2 * LOOK_LAST_S)  # longer than between any two

    assert store.reads == 1


async def test_a_store_that_is_away_for_a_moment_is_waited_for(store: Watched) -> None:
    """As long as a runner may be silent."""
    await store.append(KEY, "run", Part(0, b"Hello", HEAD), BOUNDS)
    store.failure = ReplayUnavailable()
    reading = asyncio.create_task(RemoteAnswers(store).read(KEY, "run").next())
    await until(lambda: store.reads > 2, "some looks in vain")
    store.failure = None

    assert (await reading).data == b"Hello"


async def test_a_store_that_stays_away_is_told_of(store: Watched) -> None:
    store.failure = ReplayUnavailable()

    async with asyncio.timeout(5):
        with pytest.raises(ReplayUnavailable):
            await RemoteAnswers(store).read(KEY, "run").next()


async def test_what_is_damaged_is_not_asked_for_again(store: Watched) -> None:
    store.failure = ReplayDamaged()

    with pytest.raises(ReplayDamaged):
        await RemoteAnswers(store).read(KEY, "run").next()
    assert store.reads == 1


async def test_a_runner_that_is_gone_is_heard_of(store: Watched) -> None:
    reading = asyncio.create_task(RemoteAnswers(store).read(KEY, "run").next())
    await until(lambda: store.reads > 0, "a look")
    await store.release(KEY, "run")

    assert (await reading).state == "gone"
