"""How a guarded ledger comes back and closes, and how much an outage lets through."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from policies.key_names import ledger_keys
from policies.ledger import (
    NOTHING,
    Admitted,
    Demand,
    Ledger,
    LedgerUnavailable,
    Usage,
)
from policies.outage.breaker import Breaker
from policies.outage.guarded_ledger import CLOSE_TIMEOUT_S
from policies.outage.store_watch import StoreWatch
from policies.plans import Concurrency, Plan, Quota, Rate
from policies.redis_ledger import RedisLedger
from policies.store.store import open_store
from tests.policies.outage.guarded_replicas import (
    PLAN,
    MakeDemand,
    Replica,
    StartReplicas,
    run_request,
    started_replicas,
    used,
    wall_clock_us,
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


async def test_transitions_are_told_and_nothing_else(
    server: RedisServer,
    replica: Replica,
    demand: MakeDemand,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A line when it opens, one when it closes, one when all is settled."""
    caplog.set_level(logging.INFO, "policies")
    server.kill()
    await replica.until_away()
    for _ in range(20):
        await run_request(replica.ledger, demand(PLAN, 500), 7)
    await server.start()
    await until(lambda: len(caplog.messages) == 3, "three lines")

    assert caplog.messages == [
        "the store is away, each replica decides by its share",
        "the store is back, limits are exact",
        "the store has every settlement it missed",
    ]
    facts = caplog.records[1].__dict__["facts"]
    assert (facts["leases_told"], facts["settlements_queued"] > 0) == (0, True)


async def test_closing_sends_what_is_due(
    server: RedisServer, exact: Ledger, demand: MakeDemand
) -> None:
    """A shutdown while the store is there loses nothing, and leaves the count."""
    replica = Replica(server.url, "leaving")
    replica.ledger.start()
    await until(lambda: server.command("ZCARD", "gw:replicas") == 1, "to be counted")
    asked = demand(PLAN, 500)
    await replica.ledger.admit(asked)
    ending = asyncio.create_task(
        replica.ledger.settle("acme", asked.lease_id, Usage(1, 9))
    )
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])

    await replica.ledger.aclose()

    assert await used(exact) == [9, 0]
    assert server.command("ZCARD", "gw:replicas") == 0


async def test_closing_without_a_store_ends_in_time_and_says_what_is_lost(
    server: RedisServer, demand: MakeDemand, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown waits for a store that is away until its deadline, and no longer."""
    tasks = asyncio.all_tasks()
    replica = Replica(server.url, "leaving")
    replica.ledger.start()
    server.freeze()
    await replica.until_away()
    for _ in range(5):
        await run_request(replica.ledger, demand(PLAN, 500), 7)

    started = time.perf_counter()
    await replica.ledger.aclose()

    assert time.perf_counter() - started < CLOSE_TIMEOUT_S + 2
    assert replica.ledger.journal.lost_total == 5
    assert caplog.messages[-1] == "closed before the store took every settlement"
    assert asyncio.all_tasks() == tasks


async def test_store_that_returns_during_a_shutdown_gets_every_settlement(
    server: RedisServer, demand: MakeDemand, exact: Ledger
) -> None:
    """Replicas may be replaced while Redis fails over."""
    replica = Replica(server.url, "leaving")
    replica.ledger.start()
    server.freeze()
    await replica.until_away()
    for _ in range(5):
        await run_request(replica.ledger, demand(PLAN, 500), 7)

    closing = asyncio.create_task(replica.ledger.aclose())
    await asyncio.sleep(0.3)  # in vain until then
    server.thaw()
    await closing

    assert replica.ledger.journal.lost_total == 0


async def test_settlement_cancelled_is_not_lost(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """At whatever point it is cut off, the lease ends at what it used."""
    for turns in range(6):
        asked = demand(PLAN, 500)
        await replica.ledger.admit(asked)
        ending = asyncio.create_task(
            replica.ledger.settle("acme", asked.lease_id, Usage(1, 10))
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        if turns == 0:
            # It had not begun, so there was nothing to keep: the owner ends it again.
            await replica.ledger.settle("acme", asked.lease_id, Usage(1, 10))

    await replica.until_back()

    assert await used(exact) == [60, 0]


class Hammer:
    """Requests against one replica, as fast as it answers, until told to stop."""

    def __init__(self, replica: Replica, plan: Plan, make: MakeDemand) -> None:
        self._replica = replica
        self._plan = plan
        self._make = make
        self.admitted = 0
        self.most_held = 0

    async def run(self, until_s: float) -> None:
        """Hold each lease for a turn of the loop, then settle it at its reservation."""
        ledger, held = self._replica.ledger, []
        while time.monotonic() < until_s:
            asked = self._make(self._plan, 1)
            try:
                decision = await ledger.admit(asked)
            except LedgerUnavailable:
                decision = None
            if isinstance(decision, Admitted):
                self.admitted += 1
                held.append(asked)
                self.most_held = max(self.most_held, len(held))
            else:
                for each in held:
                    await ledger.settle("acme", each.lease_id, each.reserve)
                held.clear()
            await asyncio.sleep(0)
        for each in held:
            await ledger.settle("acme", each.lease_id, each.reserve)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(
            {"rates": (Rate(of="requests", limit=600, per="minute"),)}, id="rate"
        ),
        pytest.param(
            {"quotas": (Quota(of="requests", limit=500, per="day"),)}, id="quota"
        ),
        pytest.param({"concurrency": Concurrency(limit=9)}, id="concurrency"),
    ],
)
async def test_overshoot_of_an_outage_is_within_its_bound(
    server: RedisServer,
    start_replicas: StartReplicas,
    demand: MakeDemand,
    exact: Ledger,
    limits: dict[str, Any],
) -> None:
    """
    Four replicas hammer while the store is killed: no more than docs/store-failure.md
    says, and no less than their shares.
    """
    plan = Plan(plan="p", **limits)
    replicas = await start_replicas(4)
    server.kill()
    for each in replicas:
        await each.until_away()

    hammers = [Hammer(each, plan, demand) for each in replicas]
    began_s = time.monotonic()
    await asyncio.gather(*(hammer.run(began_s + 1.0) for hammer in hammers))
    lasted_s = time.monotonic() - began_s

    admitted = sum(hammer.admitted for hammer in hammers)
    if plan.rates:
        # 4 * (600 // 4), then 4 * 150 a minute.
        assert 600 <= admitted <= 600 + 10 * lasted_s + 4
    elif plan.quotas:
        assert admitted == 500
    else:
        assert [2, 2, 2, 2] == [hammer.most_held for hammer in hammers]
    await server.start()
    for each in replicas:
        await each.until_back()
    if plan.quotas:
        assert await used(exact, plan) == [500]


async def test_limits_are_exact_again_at_once(
    server: RedisServer, start_replicas: StartReplicas, demand: MakeDemand
) -> None:
    """A hundred admissions through four replicas, after an outage, against five."""
    plan = Plan(plan="p", concurrency=Concurrency(limit=5))
    replicas = await start_replicas(4)
    server.kill()
    for each in replicas:
        await each.until_away()
    await server.start()
    for each in replicas:
        await each.until_back()

    decisions = await asyncio.gather(
        *(replicas[n % 4].ledger.admit(demand(plan)) for n in range(100))
    )

    assert all(decision.is_exact for decision in decisions)
    assert 5 == sum(isinstance(decision, Admitted) for decision in decisions)


async def test_recovery_ends_under_load(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """New leases of the share do not hold it up, and all are told of."""
    plan = Plan(plan="p", quotas=PLAN.quotas)
    ledger = replica.ledger
    server.kill()
    await replica.until_away()
    is_over = False
    running: deque[Demand] = deque()

    async def work() -> int:
        ended = 0
        while running or not is_over:
            if not is_over:
                running.append(demand(plan, 1))
                await ledger.admit(running[-1])
            if is_over or len(running) > 200:
                done = running.popleft()
                await ledger.settle("acme", done.lease_id, Usage(1, 2))
                ended += 1
            await asyncio.sleep(0)
        return ended

    working = asyncio.create_task(work())
    await server.start()
    await until(lambda: ledger.health.is_closed, "the store to be back")
    is_over = True
    ended = await working
    await replica.until_back()

    assert await used(exact, plan) == [2 * ended]


async def test_store_that_can_only_be_read_is_still_away(
    server: RedisServer, replica: Replica, demand: MakeDemand
) -> None:
    """A ping proves nothing: the breaker closes when writes are taken."""
    server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    await replica.until_away()
    errors = replica.ledger.health.errors
    before = errors["refused"]
    await until(lambda: errors["refused"] > before + 1, "two probes to fail")
    assert replica.ledger.health.breaker.opened_total == 1
    assert isinstance(await replica.ledger.admit(demand(PLAN)), Admitted)

    server.command("CONFIG", "SET", "min-replicas-to-write", "0")
    await replica.until_back()

    assert replica.ledger.status()["reason"] == ""


async def test_count_that_cannot_be_read_keeps_nobody_from_being_exact(
    server: RedisServer, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not the ledger's data is told of, and the last count goes on."""
    server.command("SET", "gw:replicas", "not a set")
    await until(lambda: "the store refuses a call" in caplog.messages, "a heartbeat")
    server.kill()
    await replica.until_away()
    await server.start()

    await replica.until_back()

    assert replica.ledger.status()["replicas"] == 1


async def test_full_store_is_emptied_by_its_settlements(
    server: RedisServer, replica: Replica, demand: MakeDemand, exact: Ledger
) -> None:
    """They are sent although the breaker is open, and it is not taken for healthy."""
    ledger = replica.ledger
    plan = Plan(plan="p", quotas=PLAN.quotas)
    asked = [demand(plan, 10) for _ in range(20)]
    for each in asked:
        await ledger.admit(each)
    server.command("CONFIG", "SET", "maxmemory", "1")
    while ledger.health.is_closed:
        assert not (await ledger.admit(demand(plan, 1))).is_exact
        assert await ledger.renew("acme", asked[0].lease_id, 1)

    for each in asked:
        await ledger.settle("acme", each.lease_id, Usage(1, 5))

    key = ledger_keys("acme")[2]
    await until(lambda: server.command("HLEN", key) == 0, "the leases to be settled")
    assert (ledger.health.breaker.reason, ledger.health.is_closed) == ("memory", False)
    server.command("CONFIG", "SET", "maxmemory", "0")
    await replica.until_back()


async def test_workspace_that_cannot_be_read_keeps_no_other_from_being_exact(
    server: RedisServer, replica: Replica, demand: MakeDemand
) -> None:
    """A lease of it runs all the while; its end is lost, and counted."""
    ledger = replica.ledger
    spoiled, other = demand(PLAN, 5, workspace="spoiled"), demand(PLAN, 5)
    for each in (spoiled, other):
        await ledger.admit(each)
    server.command("HSET", ledger_keys("spoiled")[0], "-", "no msgpack")
    server.freeze()
    await replica.until_away()
    server.thaw()
    await replica.until_back()

    assert (await ledger.admit(demand(PLAN, 5))).is_exact
    decision = await ledger.admit(demand(PLAN, 5, workspace="spoiled"))
    assert (isinstance(decision, Admitted), decision.is_exact) == (True, False)
    await ledger.settle("spoiled", spoiled.lease_id, Usage(1, 5))
    await until(lambda: ledger.journal.lost_total > 0, "the loss to be counted")
    assert ledger.health.is_closed


async def test_bug_beside_the_requests_does_not_end_the_watch(
    server: RedisServer, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the next outage would never end on this replica."""
    swept = 0

    def sweep() -> None:
        nonlocal swept
        swept += 1
        raise ArithmeticError(swept)

    watch = StoreWatch(
        replica.store,
        health=replica.ledger.health,
        replicas=replica.replicas,
        courier=replica.ledger.courier,
        journal=replica.ledger.journal,
        clock_us=wall_clock_us,
        returned=lambda: None,
        sweep=sweep,
    )
    watch.start()
    await until(lambda: swept > 2, "it to go on")
    await watch.stop()

    assert "a task beside the requests failed, and goes on" in caplog.messages


async def test_breaker_can_be_tuned(server: RedisServer, demand: MakeDemand) -> None:
    """One failure is enough where an operator says so."""
    replica = Replica(server.url, "strict", breaker=Breaker(failures_to_open=1))
    server.kill()

    assert isinstance(await replica.ledger.admit(demand(PLAN)), Admitted)

    assert not replica.ledger.health.is_closed
    await replica.ledger.settle("acme", "never", NOTHING)
    await replica.ledger.aclose()
