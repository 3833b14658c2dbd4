"""Plans that change under way, and limits in shadow, on every ledger."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.ledger import Admitted, Demand, Ledger, Rejected, Usage
from policies.plans import Concurrency, Plan, Quota, Rate

MakeDemand = Callable[..., Demand]
Advance = Callable[[int], None]
TravelTo = Callable[[str], None]

SMALL = Plan(
    plan="small",
    rates=(Rate(of="tokens", limit=1000, per="minute"),),
    quotas=(Quota(of="requests", limit=5, per="day"),),
    concurrency=Concurrency(limit=2),
)
LARGE = Plan(
    plan="large",
    rates=(Rate(of="tokens", limit=70_000, per="minute", burst=7001),),
    quotas=(Quota(of="requests", limit=50, per="day"),),
    concurrency=Concurrency(limit=20),
)


async def used(ledger: Ledger, plan: Plan) -> list[int]:
    return [state.used for state in await ledger.inspect("acme", plan)]


async def admit(ledger: Ledger, demand: Demand) -> Admitted:
    decision = await ledger.admit(demand)
    assert isinstance(decision, Admitted)
    return decision


async def test_upgrade_takes_effect_at_once_and_keeps_usage(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """The first request under the larger plan sees what the smaller one counted."""
    await admit(ledger, demand(SMALL, 900))
    assert isinstance(await ledger.admit(demand(SMALL, 900)), Rejected)

    decision = await admit(ledger, demand(LARGE, 900))

    assert [state.used for state in decision.states] == [1800, 2, 2]
    assert [state.capacity for state in decision.states] == [7001, 50, 20]


async def test_downgrade_takes_effect_at_once_and_keeps_usage(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """What was used of the larger plan counts in full against the smaller."""
    for _ in range(6):
        await admit(ledger, demand(LARGE, 500))

    decision = await ledger.admit(demand(SMALL, 1))

    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.binding.used) == ("quota", 6)
    assert [state.used for state in decision.states] == [3000, 6, 6]


async def test_plans_that_alternate_share_one_usage(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """Two keys of one workspace on two plans are not two workspaces."""
    for plan in (SMALL, LARGE) * 2:
        lease = await admit(ledger, demand(plan, 100))
        await ledger.settle("acme", lease.lease_id, Usage(1, 100))

    assert await used(ledger, SMALL) == [400, 4, 0]
    assert await used(ledger, LARGE) == [400, 4, 0]


async def test_limit_that_returns_has_kept_its_usage(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """Leaving a plan and coming back does not refill it."""
    await admit(ledger, demand(SMALL, 900))
    await admit(ledger, demand(Plan(plan="free"), 900))

    assert await used(ledger, SMALL) == [900, 1, 2]


async def test_rate_and_quota_of_one_period_are_apart(
    ledger: Ledger, demand: MakeDemand, travel_to: TravelTo
) -> None:
    """A bucket of a day and a calendar day are two dimensions."""
    rate = Rate(of="requests", limit=24, per="day")
    quota = Quota(of="requests", limit=10, per="day")
    plan = Plan(plan="p", rates=(rate,), quotas=(quota,))
    travel_to("2026-11-02T23:30:00")
    await admit(ledger, demand(plan, requests=2))

    travel_to("2026-11-03T00:30:00")

    assert await used(ledger, plan) == [1, 0]


async def test_concurrency_that_appears_counts_what_already_runs(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """Leases taken without a limit take places under one."""
    for _ in range(3):
        await admit(ledger, demand(Plan(plan="free")))

    decision = await ledger.admit(demand(SMALL))

    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.binding.used) == ("concurrency", 3)


@pytest.mark.parametrize(
    ("plan", "tokens"),
    [
        pytest.param(
            Plan(
                plan="p",
                rates=(Rate(of="tokens", limit=100, per="minute", shadow=True),),
            ),
            60,
            id="rate",
        ),
        pytest.param(
            Plan(
                plan="p",
                quotas=(Quota(of="tokens", limit=100, per="day", shadow=True),),
            ),
            60,
            id="quota",
        ),
        pytest.param(
            Plan(plan="p", concurrency=Concurrency(limit=1, shadow=True)),
            0,
            id="concurrency",
        ),
    ],
)
async def test_shadow_limit_never_refuses_and_says_when_it_would(
    ledger: Ledger, demand: MakeDemand, plan: Plan, tokens: int
) -> None:
    """It is charged by what it would have admitted, and reported beyond."""
    first = await admit(ledger, demand(plan, tokens))
    counted = await used(ledger, plan)
    second = await admit(ledger, demand(plan, tokens))

    assert first.shadowed == ()
    assert second.shadowed == plan.limits
    assert await used(ledger, plan) == counted

    await ledger.settle("acme", second.lease_id, Usage(1, 500))
    assert await used(ledger, plan) == counted


async def test_shadow_limit_counts_what_enforcing_it_would(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """The same requests meet an enforced and a shadow limit with the same answers."""
    rate = Rate(of="tokens", limit=100, per="minute")
    enforced = Plan(plan="e", rates=(rate,))
    shadow = Plan(
        plan="s", rates=(Rate(of="tokens", limit=100, per="minute", shadow=True),)
    )
    for number in range(40):
        tokens = 10 + number * 7 % 50
        real = await ledger.admit(demand(enforced, tokens, workspace="real"))
        tried = await admit(ledger, demand(shadow, tokens, workspace="tried"))

        assert isinstance(real, Rejected) is bool(tried.shadowed)
        assert real.states[0].used == tried.states[0].used
        for decision, workspace in (real, "real"), (tried, "tried"):
            if isinstance(decision, Admitted):
                await ledger.settle(workspace, decision.lease_id, Usage(1, tokens - 5))
        advance(7_000)


async def test_shadow_limit_is_not_charged_by_a_request_another_limit_refuses(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """A rejection charges nothing, in shadow neither."""
    plan = Plan(
        plan="p",
        rates=(Rate(of="tokens", limit=100, per="minute", shadow=True),),
        concurrency=Concurrency(limit=0),
    )

    assert isinstance(await ledger.admit(demand(plan, 10)), Rejected)

    assert await used(ledger, plan) == [0, 0]


async def test_repeated_admission_reports_the_same_shadows(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """What was shadowed at first is so in the repeated answer."""
    plan = Plan(plan="p", concurrency=Concurrency(limit=0, shadow=True))
    asked = demand(plan, lease_id="mine")

    first = await ledger.admit(asked)

    assert isinstance(first, Admitted)
    assert first.shadowed == plan.limits
    assert await ledger.admit(asked) == first


async def test_shadow_limit_that_becomes_enforced_counts_everything_that_runs(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """From then on no lease is overlooked, and each gives its place back once."""
    shadow = Plan(plan="p", concurrency=Concurrency(limit=1, shadow=True))
    enforced = Plan(plan="p", concurrency=Concurrency(limit=1))
    leases = [await admit(ledger, demand(shadow)) for _ in range(3)]

    assert await used(ledger, shadow) == [1]
    assert await used(ledger, enforced) == [3]

    for lease in leases:
        await ledger.settle("acme", lease.lease_id, Usage(1, 0))
    assert await used(ledger, shadow) == await used(ledger, enforced) == [0]
