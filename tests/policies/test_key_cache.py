"""What a replica remembers of the store's keys, and for how long it may."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import msgspec
import pytest

from policies.key_cache import (
    LOOKUP_BURST,
    LOOKUPS_PER_S,
    STALE_RETRY_S,
    STALE_S,
    UNKNOWN_TTL_S,
    KeysUnavailable,
    LookupOutcome,
    StoredKeys,
)
from policies.key_names import KEY_RECORDS
from policies.key_store import KeyStore
from tests.policies.keys_in_redis import digest, key_store, stored_key
from tests.redis_fixtures import StartRedis
from tests.redis_servers import RedisServer
from tests.servers.process import until

TTL_S = 30.0


class Replica:
    """A replica's keys, with a clock that stands still and a count of outcomes."""

    def __init__(self, keys: KeyStore, **options: Any) -> None:
        self.now_s = 1000.0
        self.outcomes: Counter[LookupOutcome] = Counter()
        self.keys = StoredKeys(
            keys,
            ttl_s=TTL_S,
            now_s=lambda: self.now_s,
            count=lambda outcome: self.outcomes.update([outcome]),
            **options,
        )

    async def knows(self, of: str) -> bool:
        return await self.keys.find(digest(of)) is not None

    async def until(self, of: str, *, is_known: bool) -> None:
        """Wait until a key is known or unknown; the clock stands still meanwhile."""
        async with asyncio.timeout(5):
            while await self.knows(of) != is_known:  # noqa: ASYNC110 - asks Redis
                await asyncio.sleep(0.001)


AddReplica: TypeAlias = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def server(start_redis: StartRedis) -> RedisServer:
    """A Redis of the test's own, to count its commands and to kill it."""
    return await start_redis()


@pytest.fixture
async def operator(server: RedisServer) -> AsyncIterator[KeyStore]:
    """Makes and revokes keys, as the command line does."""
    async with key_store(server.unix_url) as keys:
        yield keys


@pytest.fixture
async def add_replica(server: RedisServer) -> AsyncIterator[AddReplica]:
    """Adds replicas that follow the changes, and proves that they leave nothing."""
    async with AsyncExitStack() as running:

        async def add(*, is_following: bool = True, **options: Any) -> Replica:
            keys = await running.enter_async_context(key_store(server.unix_url))
            replica = Replica(keys, **options)
            if is_following:
                await running.enter_async_context(replica.keys.following())
                await until(lambda: replica.keys.is_subscribed, "the subscription")
            return replica

        yield add
    assert {asyncio.current_task()} == asyncio.all_tasks()


def lookups(server: RedisServer) -> int:
    """How often the server was asked for a key."""
    stats = server.command("INFO", "commandstats")
    return int(stats.get("cmdstat_hget", {"calls": 0})["calls"])


def remove_in_silence(server: RedisServer, of: str) -> None:
    """Revoke a key without a message, as for a replica that cannot hear it."""
    server.command("HDEL", KEY_RECORDS, digest(of))


async def test_a_key_is_asked_for_once_in_its_ttl(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Requests of a busy key cost Redis nothing."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    server.command("CONFIG", "RESETSTAT")

    assert all([await replica.knows("k") for _ in range(100)])
    assert 1 == lookups(server)
    replica.now_s += TTL_S
    assert await replica.knows("k")

    assert 2 == lookups(server)
    assert {"found": 2, "hit": 99} == replica.outcomes


async def test_a_revoked_key_stops_on_every_replica_at_once(
    add_replica: AddReplica, operator: KeyStore
) -> None:
    """The ttl has not passed anywhere: the message alone does it."""
    await operator.create(stored_key("k"))
    replicas = [await add_replica(), await add_replica()]
    assert all([await replica.knows("k") for replica in replicas])

    await operator.revoke(digest("k"))

    for replica in replicas:
        await replica.until("k", is_known=False)


async def test_a_new_key_works_at_once_even_where_it_was_just_refused(
    add_replica: AddReplica, operator: KeyStore
) -> None:
    """That a digest is unknown is remembered, and forgotten when it is made."""
    replica = await add_replica()
    assert not await replica.knows("k")
    assert not await replica.knows("k")
    assert {"unknown": 1, "unknown_hit": 1} == replica.outcomes

    await operator.create(stored_key("k"))

    await replica.until("k", is_known=True)


async def test_a_revocation_whose_message_is_lost_takes_effect_with_the_ttl(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """A subscription may die without anybody noticing; the ttl needs no message."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    assert await replica.knows("k")
    remove_in_silence(server, "k")

    replica.now_s += TTL_S - 0.001
    assert await replica.knows("k")
    replica.now_s += 0.001

    assert not await replica.knows("k")


async def test_nothing_remembered_survives_a_cut_subscription(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Once it is back, every key is asked for again: messages may have been lost."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    assert await replica.knows("k")
    assert not await replica.knows("made in silence")

    remove_in_silence(server, "k")
    made = stored_key("made in silence")
    server.command("HSET", KEY_RECORDS, made.sha256, msgspec.json.encode(made))
    server.command("CLIENT", "KILL", "TYPE", "pubsub")

    await replica.until("k", is_known=False)
    assert await replica.knows("made in silence")


async def test_callers_of_one_key_share_one_lookup(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Also those that come while it is on its way, and whoever leaves disturbs none."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    server.command("CONFIG", "RESETSTAT")

    callers = [asyncio.create_task(replica.knows("k")) for _ in range(50)]
    await asyncio.sleep(0)
    callers[0].cancel()
    callers[25].cancel()
    await asyncio.wait(callers)

    assert 48 == sum(not caller.cancelled() and caller.result() for caller in callers)
    assert 1 == lookups(server)


async def test_a_lookup_that_everybody_left_still_counts(
    add_replica: AddReplica, operator: KeyStore
) -> None:
    """Its answer is remembered, and no error is lost on the way."""
    await operator.create(stored_key("k"))
    replica = await add_replica()

    caller = asyncio.create_task(replica.knows("k"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])

    await until(lambda: len(replica.keys) == 1, "the answer")


async def test_an_answer_older_than_a_change_is_not_remembered(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Message and answer come on two connections, in either order."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    server.command("CONFIG", "RESETSTAT")

    caller = asyncio.create_task(replica.knows("k"))
    await asyncio.sleep(0)
    replica.keys.forget(digest("k"))
    assert await caller
    assert await replica.knows("k")

    assert 2 == lookups(server)


async def test_who_comes_after_a_change_waits_for_no_older_answer(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """A look-up from before the change would tell what is no longer true."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    server.command("CONFIG", "RESETSTAT")

    earlier = asyncio.create_task(replica.knows("k"))
    await asyncio.sleep(0)
    replica.keys.forget(digest("k"))
    later = asyncio.create_task(replica.knows("k"))
    assert all(await asyncio.gather(earlier, later))

    assert 2 == lookups(server)


async def test_ten_thousand_guesses_cost_a_bounded_number_of_lookups(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Beyond the budget nobody is told 401 unasked, and known keys do not notice."""
    await operator.create(stored_key("good"))
    replica = await add_replica()
    assert await replica.knows("good")
    server.command("CONFIG", "RESETSTAT")

    ended = []
    for start in range(0, 10_000, 100):
        guesses = (replica.knows(f"guess {n}") for n in range(start, start + 100))
        ended += await asyncio.gather(*guesses, return_exceptions=True)
        assert await replica.knows("good")

    assert LOOKUP_BURST == lookups(server) == ended.count(False)
    refused = [end for end in ended if isinstance(end, KeysUnavailable)]
    assert 10_000 - LOOKUP_BURST == len(refused) == replica.outcomes["over_budget"]


async def test_the_budget_refills(add_replica: AddReplica) -> None:
    """A second later there are as many look-ups as it allows in one, and no more."""
    replica = await add_replica()
    guesses = iter(range(10_000))

    async def guess_until_refused() -> int:
        for asked in range(1000):
            try:
                await replica.knows(f"guess {next(guesses)}")
            except KeysUnavailable:
                return asked
        raise AssertionError("the budget never ended")

    assert LOOKUP_BURST == await guess_until_refused()
    replica.now_s += 1
    assert LOOKUPS_PER_S == await guess_until_refused()
    replica.now_s += 3600
    assert LOOKUP_BURST == await guess_until_refused()


async def test_good_keys_cost_no_budget(
    add_replica: AddReplica, operator: KeyStore
) -> None:
    """A replica that starts may meet any number of keys it has never seen."""
    names = [f"key {n}" for n in range(LOOKUP_BURST * 3)]
    await asyncio.gather(*(operator.create(stored_key(name)) for name in names))
    replica = await add_replica()

    assert all([await replica.knows(name) for name in names])


async def test_unknown_is_not_believed_for_long(
    add_replica: AddReplica, operator: KeyStore
) -> None:
    """Where no message comes, a new key is refused for seconds and no more."""
    replica = await add_replica(is_following=False)
    assert not await replica.knows("k")
    await operator.create(stored_key("k"))
    assert not await replica.knows("k")

    replica.now_s += UNKNOWN_TTL_S

    assert await replica.knows("k")


async def test_the_keys_used_least_are_forgotten_first(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Memory is bounded, and a busy key stays."""
    for name in "abc":
        await operator.create(stored_key(name))
    replica = await add_replica(max_known=2)
    for name in "abac":
        assert await replica.knows(name)
    server.command("CONFIG", "RESETSTAT")

    assert await replica.knows("a")
    assert 0 == lookups(server)
    assert await replica.knows("b")

    assert (1, 2) == (lookups(server), len(replica.keys))


async def test_without_redis_a_remembered_key_goes_on_working(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Past its ttl, for a bounded time; of any other key nobody says it is wrong."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    assert await replica.knows("k")
    server.kill()

    replica.now_s += TTL_S + STALE_S - 0.001
    assert await replica.knows("k")
    with pytest.raises(KeysUnavailable):
        await replica.knows("another")
    replica.now_s += STALE_RETRY_S
    with pytest.raises(KeysUnavailable):
        await replica.knows("k")

    assert {"found": 1, "stale": 1, "store_error": 2} == replica.outcomes


async def test_an_outage_costs_a_key_one_attempt_a_second(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """Each attempt may take the whole time-out, which no request should pay for."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    assert await replica.knows("k")
    server.kill()
    await until(lambda: not replica.keys.is_subscribed, "the loss to be noticed")
    replica.now_s += TTL_S

    for _ in range(3):
        assert all([await replica.knows("k") for _ in range(10)])
        replica.now_s += STALE_RETRY_S

    assert {"found": 1, "stale": 3, "hit": 27} == replica.outcomes


async def test_a_store_known_to_be_away_is_not_waited_for(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """What is remembered serves at once, and what is not is told at once."""
    await operator.create(stored_key("k"))
    ledger_says_away = False
    replica = await add_replica(is_away=lambda: ledger_says_away)
    assert await replica.knows("k")
    ledger_says_away = True
    replica.now_s += TTL_S
    server.freeze()

    async with asyncio.timeout(0):
        assert await replica.knows("k")
        with pytest.raises(KeysUnavailable):
            await replica.knows("another")

    server.thaw()
    assert {"found": 1, "stale": 1, "store_error": 1} == replica.outcomes


async def test_a_key_revoked_just_before_an_outage_stays_revoked(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """What was changed is forgotten, not kept for when Redis is away."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    assert await replica.knows("k")
    await operator.revoke(digest("k"))
    await until(lambda: len(replica.keys) == 0, "the message")

    server.kill()

    with pytest.raises(KeysUnavailable):
        await replica.knows("k")


async def test_after_an_outage_every_key_is_asked_for_again(
    add_replica: AddReplica, operator: KeyStore, server: RedisServer
) -> None:
    """What was lived on meanwhile ends with it; this Redis came back empty."""
    await operator.create(stored_key("k"))
    replica = await add_replica()
    assert await replica.knows("k")

    await server.restart()

    await replica.until("k", is_known=False)


async def test_an_unreadable_record_is_no_wrong_key(
    add_replica: AddReplica, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The application may try again; the log names the key's id and no more."""
    replica = await add_replica()
    server.command("HSET", KEY_RECORDS, digest("k"), "{")

    with pytest.raises(KeysUnavailable):
        await replica.knows("k")

    assert digest("k")[:8] in caplog.text
    assert digest("k") not in caplog.text
