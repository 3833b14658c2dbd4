"""Replicas that share a real Redis, while it is killed, frozen and restarted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from policies.ledger import (
    Admitted,
    Ledger,
    LedgerUnavailable,
    Usage,
)
from policies.plans import Concurrency, Plan, Quota
from policies.redis_ledger import RedisLedger
from policies.store.store import open_store
from tests.policies.outage.guarded_replicas import (
    PLAN,
    SLACK_S,
    TIMEOUT_S,
    MakeDemand,
    Replica,
    StartReplicas,
    run_request,
    started_replicas,
    used,
)
from tests.redis_fixtures import StartRedis
from tests.servers.process import until
from tests.servers.redis_server import RedisServer


@pytest.fixture
def ledger_kind() -> str:
    return "memory"


@pytest.fixture
async def server(start_redis: StartRedis) -> RedisServer:
    return await start_redis(aof="always")


@pytest.fixture
async def start_replicas(server: RedisServer) -> AsyncIterator[StartReplicas]:
    """Starts replicas that have counted one another."""
    async with started_replicas(server.url) as start:
        yield start


@pytest.fixture
async def replica(start_replicas: StartReplicas) -> Replica:
    (replica,) = await start_replicas(1)
    return replica


@pytest.fixture
async def exact(server: RedisServer) -> AsyncIterator[Ledger]:
    """What the store itself says."""
    ledger = RedisLedger(open_store(server.url, timeout_s=5, client_name="exact"))
    yield ledger
    await ledger.aclose()


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_no_request_waits_longer_than_a_time_out(
    how: str, server: RedisServer, replica: Replica, demand: MakeDemand
) -> None:
    """The first callers wait for one; once the breaker is open nobody does."""
    await run_request(replica.ledger, demand(PLAN), 1)
    getattr(server, how)()

    while replica.ledger.health.is_closed:
        started = time.perf_counter()
        assert await run_request(replica.ledger, demand(PLAN), 1)
        assert time.perf_counter() - started < 2 * TIMEOUT_S + SLACK_S

    started = time.perf_counter()
    for _ in range(100):
        assert await run_request(replica.ledger, demand(PLAN), 1)
    assert time.perf_counter() - started < TIMEOUT_S + SLACK_S


async def test_outage_is_noticed_without_a_request(
    server: RedisServer, replica: Replica
) -> None:
    """The heartbeat's failures count, so that /readyz tells of it."""
    server.kill()
    await replica.until_away()

    status = replica.ledger.status()
    assert (status["is_exact"], status["reason"]) == (False, "connection")
    assert replica.ledger.health.errors["connection"] >= 3


async def test_replica_that_starts_without_its_store_says_so_at_once(
    server: RedisServer,
) -> None:
    """Not exact from its first moment, and away before three heartbeats have passed."""
    server.kill()
    alone = Replica(server.url, "alone")
    alone.replicas.interval_s = 60.0
    said = [alone.ledger.status()["is_exact"]]

    alone.ledger.start()
    try:
        await alone.until_away()
        said.append(alone.ledger.status()["is_exact"])
    finally:
        await alone.ledger.aclose()

    assert said == [False, False]


async def test_usage_of_an_outage_arrives_once(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """Leases that began before, during and after it, all at what they used."""
    ledger = replica.ledger
    before = [demand(PLAN, 500) for _ in range(3)]
    for each in before:
        await ledger.admit(each)
    server.kill()
    await ledger.settle("acme", before[0].lease_id, Usage(1, 10))
    await replica.until_away()
    await ledger.settle("acme", before[1].lease_id, Usage(1, 20))
    for _ in range(20):
        assert await run_request(ledger, demand(PLAN, 500), 7)
    assert ledger.journal.depth >= 3
    running = demand(PLAN, 500)
    await ledger.admit(running)

    await server.start()
    await replica.until_back()

    # Two leases run, at their reservations.
    assert await used(exact) == [10 + 20 + 20 * 7 + 500 + 500, 2]
    for each in (before[2], running):
        assert await ledger.settle("acme", each.lease_id, Usage(1, 30))
    assert await used(exact) == [10 + 20 + 20 * 7 + 30 + 30, 0]


async def test_frozen_store_that_carries_out_late_charges_once(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """What was in the sockets of a stopped server is executed when it goes on."""
    ledger = replica.ledger
    await run_request(ledger, demand(PLAN, 500), 1)
    server.freeze()
    count = 0
    while ledger.health.is_closed:
        count += await run_request(ledger, demand(PLAN, 500), 10)
    count += await run_request(ledger, demand(PLAN, 500), 10)
    assert count >= 2

    server.thaw()
    await replica.until_back()

    assert await used(exact) == [1 + 10 * count, 0]


async def test_restarted_empty_store_is_told_of_what_runs(
    start_redis: StartRedis, demand: MakeDemand
) -> None:
    """Before the first exact decision, so that no place is given twice."""
    server = await start_redis()
    replica = Replica(server.url, "only")
    replica.ledger.start()
    plan = Plan(plan="p", concurrency=Concurrency(limit=2))
    running = [demand(plan, 500) for _ in range(2)]
    for each in running:
        await replica.ledger.admit(each)
    server.kill()
    await replica.until_away()

    await server.start()
    await replica.until_back()

    decision = await replica.ledger.admit(demand(plan))
    assert decision.is_exact
    assert not isinstance(decision, Admitted)
    for each in running:
        assert await replica.ledger.renew("acme", each.lease_id, 1)
        assert await replica.ledger.settle("acme", each.lease_id, Usage(1, 5))
    assert await used(replica.ledger, plan) == [0]
    await replica.ledger.aclose()


async def test_store_that_lost_its_data_unnoticed_is_told_by_renewals_and_ends(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """A fail-over between two calls fails none of them, and loses what it lost."""
    ledger = replica.ledger
    renewed, ended = demand(PLAN, 500), demand(PLAN, 500)
    await ledger.admit(renewed)
    await ledger.admit(ended)
    server.command("FLUSHALL")

    assert await ledger.renew("acme", renewed.lease_id, 5)
    assert await ledger.settle("acme", ended.lease_id, Usage(1, 40))

    assert await used(exact) == [500 + 40, 1]


async def test_settlement_without_an_answer_is_kept_until_the_store_has_it(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """Nobody waited for it, and it is charged once all the same."""
    ledger = replica.ledger
    lost, ended = demand(PLAN, 500), demand(PLAN, 500)
    await ledger.admit(lost)
    await ledger.admit(ended)
    await _end_soon(ledger, ended.lease_id, Usage(1, 40))
    assert ledger.journal.depth == 0

    server.freeze()
    await _end_soon(ledger, lost.lease_id, Usage(1, 60))
    assert ("acme", lost.lease_id) in ledger.journal

    server.thaw()
    await replica.until_back()
    assert await used(exact) == [40 + 60, 0]


async def _end_soon(ledger: Ledger, lease_id: str, actual: Usage) -> None:
    begun = ledger.settle_soon("acme", lease_id, actual)
    assert begun is not None
    assert await begun


async def test_admission_cancelled_without_an_answer_leaves_nothing(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """A client that left while a stopped server was asked holds no place later."""
    await run_request(replica.ledger, demand(PLAN, 500), 1)
    server.freeze()
    # By then the command has left, and its time-out has not come.
    asked = asyncio.create_task(replica.ledger.admit(demand(PLAN, 500)))
    for _ in range(5):
        await asyncio.sleep(0)
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()

    server.thaw()
    await until(lambda: not replica.ledger.journal.depth, "the lease to be taken back")
    await replica.until_back()

    assert await used(exact) == [1, 0]


async def test_closed_plan_leaves_nothing_behind(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """What a stopped server admits late is taken back: nobody ran."""
    plan = Plan(plan="p", concurrency=Concurrency(limit=8), on_store_failure="closed")
    await replica.ledger.admit(demand(plan, lease_id="first"))
    server.freeze()
    while replica.ledger.health.is_closed:
        with pytest.raises(LedgerUnavailable):
            await replica.ledger.admit(demand(plan))

    server.thaw()
    await replica.until_back()

    assert await used(exact, plan) == [1]


async def test_open_plan_is_charged_afterwards(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """Unmetered is not free."""
    plan = Plan(plan="p", quotas=PLAN.quotas, on_store_failure="open")
    server.kill()
    await replica.until_away()
    for _ in range(10):
        assert await run_request(replica.ledger, demand(plan, 500), 7)

    await server.start()
    await replica.until_back()

    assert await used(exact, plan) == [70]
    assert replica.ledger.decided == {("open", "admitted"): 10}


async def test_second_outage_starts_from_what_the_first_used(
    server: RedisServer, start_replicas: StartReplicas, demand: MakeDemand
) -> None:
    """Each outage grants a share of what is left, not of the whole again."""
    plan = Plan(plan="p", quotas=(Quota(of="tokens", limit=1000, per="month"),))
    replica, _ = await start_replicas(2)
    admitted = []
    for _ in range(2):
        server.kill()
        await replica.until_away()
        admitted.append(0)
        while await run_request(replica.ledger, demand(plan, 10), 10):
            admitted[-1] += 1
        await server.start()
        await replica.until_back()
        assert (await replica.ledger.preview(demand(plan))).is_exact

    # Half of 1000, and half of the 500 that this one knows to be left.
    assert admitted == [50, 25]


async def test_replica_that_starts_without_a_store_assumes_the_fewest_there_are(
    server: RedisServer, demand: MakeDemand
) -> None:
    """It has counted nobody, and takes no more than its part."""
    server.kill()
    replica = Replica(server.url, "new", min_replicas=4)
    replica.ledger.start()
    await replica.until_away()

    held = [await replica.ledger.admit(demand(PLAN)) for _ in range(3)]

    assert [True, True, False] == [isinstance(each, Admitted) for each in held]
    await replica.ledger.aclose()
