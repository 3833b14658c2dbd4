"""What the ledger leaves in Redis, and what it makes of data that is not its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.key_names import ledger_keys
from policies.ledger import NOTHING, Admitted, Demand, KeyScope, Usage
from policies.plans import Concurrency, KeyLimits, Plan, Quota, Rate
from policies.redis_ledger import RedisLedger
from policies.store.errors import StoreUnavailable
from tests.policies.test_redis_ledger import contents, opened, shared  # noqa: F401
from tests.servers.clock import FakeClock
from tests.servers.redis_server import RedisServer

MakeDemand = Callable[..., Demand]

HOUR_MS = 3_600_000
USAGE, LEASES, CHARGES = ledger_keys("acme")
PLAN = Plan(
    plan="p",
    rates=(Rate(of="tokens", limit=60_000, per="minute"),),
    quotas=(Quota(of="requests", limit=1000, per="month"),),
    concurrency=Concurrency(limit=1),
)
BY_THE_HOUR = KeyLimits(
    rates=(Rate(of="requests", limit=60, per="minute"),),
    quotas=(Quota(of="tokens", limit=1000, per="hour"),),
)
BY_THE_MONTH = KeyLimits(quotas=(Quota(of="requests", limit=9, per="month"),))


@pytest.fixture
def ledger_kind() -> str:
    return "redis"


def of_key(number: int, lease_id: str, limits: KeyLimits = BY_THE_HOUR) -> Demand:
    """A request by one of many keys with limits of their own."""
    key = KeyScope(f"{number:04x}", limits)
    plan = Plan(plan="p", quotas=PLAN.quotas)
    return Demand(
        workspace="acme", plan=plan, lease_id=lease_id, reserve=Usage(1, 1), key=key
    )


async def test_keys_that_came_and_went_do_not_add_up(
    timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """A workspace that hands out keys by the hour keeps few, and each that counts."""
    ledger = await opened(timed_redis, lease_ttl_ms=2 * HOUR_MS)
    await ledger.admit(of_key(0, "running"))
    await ledger.admit(of_key(1, "spent", BY_THE_MONTH))
    await ledger.settle("acme", "spent", Usage(1, 1))
    for number in range(2, 60):
        await ledger.admit(of_key(number, f"lease-{number}"))
        await ledger.settle("acme", f"lease-{number}", Usage(1, 1))
        redis_clock.advance(HOUR_MS)
        assert await ledger.renew("acme", "running", 1)
    await ledger.aclose()

    kept = set(timed_redis.command("HKEYS", USAGE))
    assert {"-", "0000", "0001"} <= kept
    assert len(kept) < 12


async def test_damaged_key_beside_it_harms_no_other(
    shared: RedisLedger,  # noqa: F811
    timed_redis: RedisServer,
) -> None:
    """What cannot be read is left where it is, and everything else has its ttl."""
    await shared.admit(of_key(0, "first"))
    await shared.settle("acme", "first", Usage(1, 1))
    timed_redis.command("HSET", USAGE, "ffff", "no msgpack")

    for number in range(1, 8):
        decision = await shared.admit(of_key(number, f"lease-{number}"))
        assert isinstance(decision, Admitted)

    assert timed_redis.command("HEXISTS", USAGE, "ffff")
    assert all(expires_at > 0 for _, expires_at in contents(timed_redis).values())


async def test_call_that_cannot_write_has_written_nothing(
    shared: RedisLedger,  # noqa: F811
    timed_redis: RedisServer,
    demand: MakeDemand,
) -> None:
    """Half an admission would be a place that nobody gives back."""
    timed_redis.command("SET", CHARGES, "not a hash")
    before = contents(timed_redis)

    with pytest.raises(StoreUnavailable) as refused:
        await shared.admit(demand(PLAN, 10))

    assert (refused.value.reason, refused.value.is_outage) == ("error", False)
    assert contents(timed_redis) == before


async def test_settlement_of_a_stranger_writes_nothing_where_usage_is_damaged(
    shared: RedisLedger,  # noqa: F811
    timed_redis: RedisServer,
) -> None:
    """Each would leave an id that nobody ever removes."""
    timed_redis.command("SET", USAGE, "not a hash")

    with pytest.raises(StoreUnavailable):
        await shared.settle("acme", "nobody's", NOTHING)

    assert list(contents(timed_redis)) == [USAGE]


async def test_what_was_refunded_leaves_nothing(
    shared: RedisLedger,  # noqa: F811
    timed_redis: RedisServer,
    redis_clock: FakeClock,
    demand: MakeDemand,
) -> None:
    """A stranger's refused key must not cost memory until the month ends."""
    asked = demand(PLAN, 10)
    await shared.admit(asked)
    await shared.settle("acme", asked.lease_id, NOTHING)

    assert list(contents(timed_redis)) == [LEASES]
    redis_clock.advance(shared.lease_ttl_ms + 1)
    assert contents(timed_redis) == {}


async def test_lease_whose_charge_was_lost_keeps_its_place_and_its_reservation(
    shared: RedisLedger,  # noqa: F811
    timed_redis: RedisServer,
    demand: MakeDemand,
) -> None:
    """It is renewed and settled as before, and nobody else gets its place meanwhile."""
    asked = demand(PLAN, 10)
    await shared.admit(asked)
    timed_redis.command("DEL", CHARGES)

    assert await shared.renew("acme", asked.lease_id, 3)
    assert not isinstance(await shared.admit(demand(PLAN, 10)), Admitted)
    assert await shared.settle("acme", asked.lease_id, Usage(1, 5))

    tokens, requests, places = await shared.inspect("acme", PLAN)
    assert (tokens.used, requests.used, places.used) == (10, 1, 0)


async def test_full_redis_still_takes_settlements(
    shared: RedisLedger,  # noqa: F811
    timed_redis: RedisServer,
    demand: MakeDemand,
) -> None:
    """Refused, they would keep the memory that they are about to give back."""
    asked = demand(PLAN, 10)
    await shared.admit(asked)
    timed_redis.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable, match="memory"):
            await shared.admit(demand(PLAN, 10))
        assert await shared.renew("acme", asked.lease_id, 3)
        assert await shared.settle("acme", asked.lease_id, Usage(1, 5))
    finally:
        timed_redis.command("CONFIG", "SET", "maxmemory", "0")

    tokens, _, places = await shared.inspect("acme", PLAN)
    assert (tokens.used, places.used) == (5, 0)
