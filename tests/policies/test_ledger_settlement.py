"""How a reservation becomes what was really used, on every ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from policies import gcra
from policies.ledger import NOTHING, Admitted, Demand, Ledger, Usage
from policies.plans import MAX_LIMIT, Concurrency, Plan, Quota, Rate

MakeDemand = Callable[..., Demand]
Advance = Callable[[int], None]
TravelTo = Callable[[str], None]

RATE = Rate(of="tokens", limit=1000, per="minute")
DAY = Quota(of="tokens", limit=5000, per="day")
REQUESTS = Quota(of="requests", limit=10, per="day")
PLAN = Plan(
    plan="p", rates=(RATE,), quotas=(REQUESTS, DAY), concurrency=Concurrency(limit=9)
)


async def used(ledger: Ledger, plan: Plan = PLAN) -> list[int]:
    return [state.used for state in await ledger.inspect("acme", plan)]


Settle = Callable[[str, str, Usage], Awaitable[bool | None]]


@pytest.fixture(params=["waited-for", "soon"])
def settle(request: pytest.FixtureRequest, ledger: Ledger) -> Settle:
    """Both ways to settle; of the one that is done already nobody hears how it went."""

    async def soon(workspace: str, lease_id: str, actual: Usage) -> bool | None:
        begun = ledger.settle_soon(workspace, lease_id, actual)
        return None if begun is None else await begun

    return ledger.settle if request.param == "waited-for" else soon


@pytest.fixture
async def lease(ledger: Ledger, demand: MakeDemand) -> str:
    """A lease that holds a reservation of one request and 600 tokens."""
    decision = await ledger.admit(demand(PLAN, 600))
    assert isinstance(decision, Admitted)
    return decision.lease_id


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        pytest.param(Usage(1, 600), [600, 1, 600, 0], id="as-estimated"),
        pytest.param(Usage(1, 100), [100, 1, 100, 0], id="refund"),
        pytest.param(Usage(1, 900), [900, 1, 900, 0], id="top-up"),
        pytest.param(Usage(1, 7000), [7000, 1, 7000, 0], id="top-up-below-zero"),
        pytest.param(Usage(3, 0), [0, 3, 0, 0], id="requests"),
        pytest.param(NOTHING, [0, 0, 0, 0], id="never-ran"),
        pytest.param(Usage(-5, -5), [0, 0, 0, 0], id="negative-is-nothing"),
    ],
)
async def test_settlement_leaves_what_was_used(
    ledger: Ledger, lease: str, settle: Settle, actual: Usage, expected: list[int]
) -> None:
    """After it, every limit counts the truth and the place is free."""
    assert await settle("acme", lease, actual) in (True, None)

    assert await used(ledger) == expected


async def test_absurd_usage_is_bounded(ledger: Ledger, lease: str) -> None:
    """An upstream's nonsense cannot put numbers into the ledger that it cannot hold."""
    await ledger.settle("acme", lease, Usage(1, 10**40))

    rate, _, quota, _ = await ledger.inspect("acme", PLAN)
    assert quota.used == MAX_LIMIT
    assert rate.reset_after_ms == gcra.MAX_DEBT_US // 1000 + 1


async def test_second_settlement_changes_nothing(
    ledger: Ledger, lease: str, settle: Settle
) -> None:
    """However many ways out a request takes, it is settled once."""
    assert await settle("acme", lease, Usage(1, 100)) in (True, None)

    assert not await settle("acme", lease, Usage(1, 900))
    assert not await settle("acme", lease, NOTHING)

    assert await used(ledger) == [100, 1, 100, 0]


async def test_concurrent_settlements_settle_once(ledger: Ledger, lease: str) -> None:
    """Of settlements that race exactly one wins."""
    settled = await asyncio.gather(
        *(ledger.settle("acme", lease, Usage(1, tokens)) for tokens in range(100))
    )

    assert sum(settled) == 1


@pytest.mark.parametrize(
    ("workspace", "lease_id"),
    [("acme", "no such lease"), ("globex", "lease-1"), ("nobody", "lease-1")],
)
async def test_unknown_lease_cannot_be_settled(
    ledger: Ledger, lease: str, settle: Settle, workspace: str, lease_id: str
) -> None:
    """A lease is its workspace's own."""
    assert not await settle(workspace, lease_id, NOTHING)

    assert await used(ledger) == [600, 1, 600, 1]


async def test_refund_of_refilled_units_does_not_overfill(
    ledger: Ledger, lease: str, demand: MakeDemand, advance: Advance
) -> None:
    """What time has given back is not given back again."""
    advance(20_000)

    await ledger.settle("acme", lease, NOTHING)

    decision = await ledger.admit(demand(PLAN, 1000))
    assert isinstance(decision, Admitted)
    assert decision.states[0].remaining == 0


async def test_overdrawn_rate_is_paid_back_by_waiting(
    ledger: Ledger, lease: str, advance: Advance
) -> None:
    """A top-up below zero delays the next request by exactly what it took."""
    await ledger.settle("acme", lease, Usage(1, 2500))

    (rate, *_) = await ledger.inspect("acme", PLAN)
    assert (rate.used, rate.remaining, rate.reset_after_ms) == (2500, 0, 150_000)

    advance(149_999)
    assert (await used(ledger))[0] == 1
    advance(1)
    assert (await used(ledger))[0] == 0


@pytest.mark.parametrize("actual", [NOTHING, Usage(1, 100), Usage(4, 4000)], ids=repr)
async def test_settlement_after_the_windows_end_leaves_the_next_one_alone(
    ledger: Ledger, demand: MakeDemand, travel_to: TravelTo, actual: Usage
) -> None:
    """A refund or top-up belongs to the window its reservation was taken from."""
    travel_to("2026-11-02T23:59:59")
    await ledger.admit(demand(PLAN, 600, lease_id="late"))
    travel_to("2026-11-03T00:00:01")
    await ledger.admit(demand(PLAN, 50, lease_id="early"))

    assert await ledger.settle("acme", "late", actual)

    assert (await used(ledger))[1:3] == [1, 50]


async def test_settlement_counts_under_the_plan_that_is_in_force(
    ledger: Ledger, lease: str, demand: MakeDemand
) -> None:
    """A changed limit is refunded the same units as it was charged."""
    faster = Plan(plan="f", rates=(Rate(of="tokens", limit=7777, per="minute"),))
    await ledger.admit(demand(faster, 0))

    await ledger.settle("acme", lease, Usage(1, 100))

    assert await used(ledger, faster) == [100]


async def test_limit_added_after_admission_is_not_refunded(
    ledger: Ledger, lease: str, demand: MakeDemand
) -> None:
    """Nobody is given back what was never taken."""
    plan = Plan(plan="h", quotas=(Quota(of="tokens", limit=5000, per="hour"),))
    await ledger.admit(demand(plan, 300))

    await ledger.settle("acme", lease, NOTHING)

    assert await used(ledger, plan) == [300]


async def test_limit_removed_after_admission_is_still_refunded(
    ledger: Ledger, lease: str, demand: MakeDemand
) -> None:
    """A workspace that returns to a plan finds what its requests really used."""
    await ledger.admit(demand(Plan(plan="free")))

    await ledger.settle("acme", lease, Usage(1, 100))

    assert (await used(ledger))[:3] == [100, 1, 100]
