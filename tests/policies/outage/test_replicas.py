"""How replicas count one another, on a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from policies.key_names import REPLICAS
from policies.outage.replicas import Replicas
from policies.store.errors import StoreUnavailable
from policies.store.store import Store, open_store
from tests.policies.conftest import Clock
from tests.redis_fixtures import StartRedis
from tests.servers.clock import FakeClock
from tests.servers.redis_server import RedisServer

TTL_MS = 6000


@pytest.fixture
def ledger_kind() -> str:
    return "redis"


@pytest.fixture
async def store(timed_redis: RedisServer) -> AsyncIterator[Store]:
    store = open_store(timed_redis.url, timeout_s=5, client_name="test")
    yield store
    await store.aclose()


def replica(store: Store, clock: Clock | FakeClock, name: str) -> Replicas:
    return Replicas(
        store, name, clock_us=lambda: clock.now_us, ttl_s=TTL_MS / 1000, interval_s=2
    )


async def test_replicas_count_one_another(store: Store, clock: Clock) -> None:
    """Who has said that it lives is counted, once, by all."""
    replicas = [replica(store, clock, name) for name in "abc"]
    for _ in range(2):
        for each in replicas:
            await each.beat()

    assert [3, 3, 3] == [each.count for each in replicas]


async def test_replica_that_is_silent_is_missed_after_a_ttl(
    store: Store, clock: Clock
) -> None:
    """A crash is seen, and believed when it has lasted for a ttl more."""
    alive, dead = replica(store, clock, "alive"), replica(store, clock, "dead")
    await dead.beat()
    counts = []
    for _ in range(8):
        await alive.beat()
        counts.append(alive.count)
        clock.advance(TTL_MS // 3)

    # The store forgets it before the fourth; a whole ttl has heard nothing of it after
    # the sixth.
    assert counts == [2, 2, 2, 2, 2, 2, 1, 1]


async def test_replica_that_leaves_is_counted_no_more(
    store: Store, clock: Clock
) -> None:
    """An orderly shutdown does not wait for a ttl in the store."""
    first, second = replica(store, clock, "first"), replica(store, clock, "second")
    await first.beat()
    await second.beat()
    await first.leave()
    newcomer = replica(store, clock, "newcomer")
    await newcomer.beat()

    assert newcomer.count == 2


async def test_store_that_lost_its_data_does_not_shrink_the_count(
    store: Store, clock: Clock, timed_redis: RedisServer
) -> None:
    """Until all have had the time to be heard again, each share stays small."""
    replicas = [replica(store, clock, name) for name in "abcd"]
    for each in [*replicas, *replicas]:
        await each.beat()
    # As of before: the one who misses somebody already is not fooled either.
    clock.advance(TTL_MS - 1)
    timed_redis.command("FLUSHALL")

    await replicas[0].beat()
    assert replicas[0].count == 4
    clock.advance(TTL_MS // 3)
    for each in [*replicas, *replicas]:
        await each.beat()
    clock.advance(2 * TTL_MS // 3)
    await replicas[0].beat()

    assert replicas[0].count == 4


async def test_count_is_kept_while_nobody_can_be_heard(
    start_redis: StartRedis, clock: FakeClock
) -> None:
    """After an outage of any length, fewer are believed after a whole ttl only."""
    server = await start_redis(clock=clock)
    store = open_store(server.url, timeout_s=5, client_name="test")
    replicas = [replica(store, clock, name) for name in "ab"]
    for each in [*replicas, *replicas]:
        await each.beat()
    first = replicas[0]
    server.kill()
    clock.advance(1000)
    with pytest.raises(StoreUnavailable):
        await first.beat()
    assert first.count == 2
    clock.advance(60_000)
    await server.start()

    counts = []
    for _ in range(4):
        await first.beat()
        counts.append(first.count)
        clock.advance(TTL_MS // 3)
    await store.aclose()

    assert counts == [2, 2, 2, 1]


async def test_nothing_is_left_of_replicas_long_gone(
    store: Store, clock: Clock, timed_redis: RedisServer
) -> None:
    """The count itself is kept for a ttl."""
    await replica(store, clock, "a").beat()
    assert timed_redis.command("EXISTS", REPLICAS) == 1

    clock.advance(TTL_MS + 1)

    assert timed_redis.command("EXISTS", REPLICAS) == 0
