"""What only the ledger in Redis can get wrong: trips, writes, ttls, big numbers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.key_names import ledger_keys
from policies.ledger import Admitted, Demand, KeyScope, Rejected, Usage
from policies.memory_ledger import MemoryLedger
from policies.plans import (
    MAX_LIMIT,
    Concurrency,
    KeyLimits,
    Plan,
    Quota,
    QuotaWindow,
    Rate,
)
from policies.redis_ledger import LEDGER_SCRIPTS, RedisLedger
from policies.store.scripts import load_script, to_script
from policies.store.store import open_store
from policies.windows import month_window, window_at
from tests.policies.conftest import PATIENCE_S
from tests.servers.clock import FakeClock
from tests.servers.redis_server import RedisServer

MakeDemand = Callable[..., Demand]

PLAN = Plan(
    plan="p",
    rates=(
        Rate(of="requests", limit=600, per="minute"),
        Rate(of="tokens", limit=60_000, per="minute"),
    ),
    quotas=(
        Quota(of="requests", limit=1000, per="day"),
        Quota(of="tokens", limit=10**6, per="month"),
    ),
    concurrency=Concurrency(limit=5),
)
KEYS = ledger_keys("acme")


@pytest.fixture
def ledger_kind() -> str:
    return "redis"


async def opened(server: RedisServer, **options: int) -> RedisLedger:
    store = open_store(
        server.url,
        timeout_s=PATIENCE_S,
        connect_timeout_s=PATIENCE_S,
        client_name="test",
        scripts=LEDGER_SCRIPTS,
    )
    await store.ping()
    return RedisLedger(store, **options)


@pytest.fixture
async def shared(timed_redis: RedisServer) -> AsyncIterator[RedisLedger]:
    ledger = await opened(timed_redis)
    yield ledger
    await ledger.aclose()


def contents(server: RedisServer) -> dict[str, tuple[Any, Any]]:
    """Every key with its value and when it expires."""
    with redis.Redis.from_url(server.url) as client:
        return {
            key.decode(): (client.dump(key), client.pexpiretime(key))
            for key in client.keys("*")
        }


async def test_five_limits_are_decided_in_one_round_trip(
    shared: RedisLedger, timed_redis: RedisServer, demand: MakeDemand
) -> None:
    """One script a decision, one a settlement, and nothing else."""
    timed_redis.command("CONFIG", "RESETSTAT")

    decision = await shared.admit(demand(PLAN, 600))
    assert isinstance(decision, Admitted)
    await shared.settle("acme", decision.lease_id, Usage(1, 100))

    stats = await timed_redis.connect().info("commandstats")
    assert stats["cmdstat_evalsha"]["calls"] == 2
    assert "cmdstat_script|load" not in stats


async def test_hundred_at_once_from_two_replicas_admit_exactly_five(
    shared: RedisLedger, timed_redis: RedisServer, demand: MakeDemand
) -> None:
    """No interleaving lets a sixth in, and none of the others is charged."""
    other = await opened(timed_redis)
    asked = [demand(PLAN, 10) for _ in range(100)]

    decisions = await asyncio.gather(
        *(
            ledger.admit(each)
            for ledger, each in zip(itertools.cycle([shared, other]), asked)
        )
    )
    await other.aclose()

    assert sum(isinstance(each, Admitted) for each in decisions) == 5
    states = await shared.inspect("acme", PLAN)
    assert [state.used for state in states] == [5, 50, 5, 50, 5]


async def test_rejection_writes_nothing(
    shared: RedisLedger, timed_redis: RedisServer, demand: MakeDemand
) -> None:
    """Not a byte and not a ttl: refused traffic prolongs nobody's punishment."""
    for _ in range(5):
        await shared.admit(demand(PLAN, 10))
    before = contents(timed_redis)

    assert isinstance(await shared.admit(demand(PLAN, 10)), Rejected)
    await shared.preview(demand(PLAN, 10))
    await shared.inspect("acme", PLAN)

    assert contents(timed_redis) == before


async def test_every_key_has_a_ttl_after_every_step(
    shared: RedisLedger, timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """Admitted, renewed, adopted, abandoned, settled: nothing is kept for ever."""
    key = KeyScope("abcd", KeyLimits(rates=(Rate(of="tokens", limit=9, per="hour"),)))
    asked = Demand(
        workspace="acme", plan=PLAN, lease_id="one", reserve=Usage(1, 9), key=key
    )
    steps: list[Callable[[], Awaitable[object]]] = [
        lambda: shared.admit(asked),
        lambda: shared.renew("acme", "one", 3),
        lambda: shared.adopt(asked, 10),
        lambda: shared.settle("acme", "unknown", Usage(1, 1)),
        lambda: shared.inspect("acme", PLAN, key),
        lambda: shared.renew("acme", "two", 1),
        lambda: shared.settle("acme", "one", Usage(1, 5)),
    ]
    for step in steps:
        await step()

        ends = [end for _, end in contents(timed_redis).values()]
        assert ends
        assert min(ends) > redis_clock.now_us // 1000
        redis_clock.advance(20_000)


async def test_workspace_that_holds_nothing_keeps_only_its_usage(
    shared: RedisLedger, timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """The moment its last lease is settled, plus the time ids stay barred."""
    plan = Plan(plan="p", rates=PLAN.rates, concurrency=Concurrency(limit=5))
    asked = Demand(
        workspace="acme", plan=plan, lease_id="one", reserve=Usage(1, 30_000)
    )
    await shared.admit(asked)
    await shared.settle("acme", "one", Usage(1, 30_000))
    assert set(contents(timed_redis)) == {KEYS[0], KEYS[1]}

    redis_clock.advance(30_002)

    assert contents(timed_redis) == {}


async def test_two_versions_of_the_scripts_count_side_by_side(
    shared: RedisLedger, timed_redis: RedisServer, demand: MakeDemand
) -> None:
    """Replicas of two releases hold one plan together during a rolling deploy."""
    other = await opened(timed_redis)
    other.admit_script, other.renew_script, other.settle_script = (
        to_script(each.name, each.text + "\n-- the next release\n")
        for each in LEDGER_SCRIPTS
    )
    old = [demand(PLAN, 100) for _ in range(3)]
    new = [demand(PLAN, 100) for _ in range(3)]

    for ledger, asked in ((shared, old[:2]), (other, new), (shared, old[2:])):
        for each in asked:
            await ledger.admit(each)
    assert await other.renew("acme", old[0].lease_id, 10)
    assert await shared.settle("acme", new[0].lease_id, Usage(1, 7))
    assert await other.settle("acme", old[0].lease_id, Usage(1, 8))
    await other.aclose()

    states = await shared.inspect("acme", PLAN)
    assert [state.used for state in states] == [5, 315, 5, 315, 3]


LIMITS = st.one_of(st.integers(1, 50), st.integers(1, MAX_LIMIT))
RATES = st.builds(
    Rate,
    of=st.just("tokens"),
    limit=LIMITS,
    per=st.sampled_from(["second", "minute", "hour", "day"]),
    burst=st.one_of(st.none(), st.integers(1, 3650)),
)
STEPS = st.lists(
    st.tuples(
        RATES,
        st.one_of(st.integers(0, 60), st.integers(0, MAX_LIMIT)),
        st.one_of(st.integers(0, 60), st.integers(0, MAX_LIMIT)),
        st.one_of(st.just(0), st.integers(0, 10**7), st.integers(0, 10**11)),
    ),
    min_size=1,
    max_size=8,
)
NUMBERS = itertools.count(1)


@given(steps=STEPS)
@settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_any_rate_counts_as_exactly_as_in_memory(
    session_timed_redis: RedisServer,
    session_clock: FakeClock,
    steps: list[tuple[Rate, int, int, int]],
) -> None:
    """Up to 2**40 units a second or one a day, and from one plan to any other."""
    workspace = f"w{next(NUMBERS)}"
    shared = await opened(session_timed_redis)
    memory = MemoryLedger(session_clock)
    for number, (rate, reserve, actual, later_us) in enumerate(steps):
        plan = Plan(plan="p", rates=(rate,))
        asked = Demand(
            workspace=workspace,
            plan=plan,
            lease_id=str(number),
            reserve=Usage(1, reserve),
        )
        assert await shared.admit(asked) == await memory.admit(asked)
        session_clock.now_us += later_us
        used = Usage(1, actual)
        for ledger in (shared, memory):
            await ledger.settle(workspace, str(number), used)
        assert await shared.inspect(workspace, plan) == await memory.inspect(
            workspace, plan
        )
    await shared.aclose()


WINDOWS = """
local found = {}
for i = 1, #ARGV, 2 do
  local id, end_ms = window_at(ARGV[i], tonumber(ARGV[i + 1]))
  found[#found + 1], found[#found + 2] = id, end_ms
end
return found
"""


async def test_windows_are_those_of_memory_in_every_month_of_four_centuries(
    timed_redis: RedisServer,
) -> None:
    """The scripts count months by another way than windows.py."""
    script = load_script("numbers", "windows").text + WINDOWS
    for century in range(4):
        months = range(1200 * century, 1200 * century + 1200)
        edges = [month_window(month).start_ms for month in months]
        asked: list[tuple[QuotaWindow, int]] = [
            (per, edge + ms)
            for per in ("hour", "day", "month")
            for edge in edges
            for ms in (0, 86_399_999, 27 * 86_400_000)
        ]
        windows = [window_at(per, ms) for per, ms in asked]

        found = timed_redis.command(
            "EVAL", script, 0, *itertools.chain.from_iterable(asked)
        )

        assert found == [n for each in windows for n in (each.id, each.end_ms)]


QUOTA_PLAN = Plan(
    plan="q",
    quotas=(Quota(of="tokens", limit=10**6, per="month"),),
    concurrency=Concurrency(limit=10**4),
)


async def test_more_leases_end_at_once_than_one_call_reclaims(
    shared: RedisLedger, redis_clock: FakeClock, demand: MakeDemand
) -> None:
    """An owner that comes back finds its own lease, however far behind it is."""
    asked = [demand(QUOTA_PLAN, 100) for _ in range(500)]
    await asyncio.gather(*(shared.admit(each) for each in asked))
    redis_clock.advance(shared.lease_ttl_ms)

    for each in asked[-30:]:
        assert await shared.settle("acme", each.lease_id, Usage(1, 10))
    for each in asked[-60:-30]:
        assert await shared.adopt(each)
    for _ in range(3):
        await shared.renew("acme", "nobody's", 0)

    quota, places = await shared.inspect("acme", QUOTA_PLAN)
    assert (quota.used, places.used) == (470 * 100 + 30 * 10, 30)


@pytest.mark.parametrize("gone", KEYS)
async def test_workspace_is_not_locked_out_by_a_key_that_was_deleted(
    shared: RedisLedger,
    timed_redis: RedisServer,
    redis_clock: FakeClock,
    demand: MakeDemand,
    gone: str,
) -> None:
    """By an operator, or by an eviction that noeviction would have prevented."""
    asked = [demand(PLAN) for _ in range(5)]
    for each in asked:
        await shared.admit(each)
    timed_redis.command("DEL", gone)
    for each in asked:
        await shared.settle("acme", each.lease_id, Usage(1, 0))

    redis_clock.advance(shared.lease_ttl_ms)

    decisions = [await shared.admit(demand(PLAN)) for _ in range(6)]
    assert [isinstance(each, Admitted) for each in decisions] == [True] * 5 + [False]


async def test_clock_that_steps_back_over_midnight_opens_no_second_yesterday(
    shared: RedisLedger, redis_clock: FakeClock, demand: MakeDemand
) -> None:
    """A fail-over to a server whose clock is a little behind grants nothing twice."""
    plan = Plan(plan="p", quotas=(Quota(of="requests", limit=2, per="day"),))
    admitted = 0
    for instant in ("23:59:59.900", "00:00:00.050", "23:59:59.950", "00:00:01"):
        day = "2026-11-03" if instant.startswith("23") else "2026-11-04"
        redis_clock.travel_to(f"{day}T{instant}")
        for _ in range(3):
            decision = await shared.admit(demand(plan))
            admitted += isinstance(decision, Admitted)

    assert admitted == 4
