"""What a replica decides alone: its share, and no lie about the plan."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from policies.ledger import (
    Admitted,
    Demand,
    KeyScope,
    LedgerUnavailable,
    Rejected,
    Usage,
)
from policies.outage.guarded_ledger import GuardedLedger
from policies.outage.last_known import MAX_STANDINGS
from policies.outage.store_health import AWAY_FIRST_MS
from policies.plans import Concurrency, KeyLimits, Limit, Plan, Quota
from tests.policies.conftest import Clock
from tests.policies.outage.one_of_four import (
    PLACES,
    RATE,
    TOKENS,
    OneOfFour,
    plan_of,
)

MakeDemand = Callable[..., Demand]


async def admit_all(
    ledger: GuardedLedger, plan: Plan, demand: MakeDemand, tokens: int = 0
) -> int:
    """How many requests in a row are admitted."""
    for admitted in range(1000):
        try:
            decision = await ledger.admit(demand(plan, tokens))
        except LedgerUnavailable:
            return admitted
        assert not decision.is_exact
        if isinstance(decision, Rejected):
            return admitted
    raise AssertionError("there is no bound")


@pytest.mark.parametrize(
    ("limit", "tokens", "expected"),
    [
        pytest.param(RATE, 0, 10, id="rate"),
        pytest.param(TOKENS, 10, 25, id="quota"),
        pytest.param(PLACES, 0, 2, id="concurrency"),
        pytest.param(Concurrency(limit=2), 0, 1, id="at-least-one"),
        pytest.param(Concurrency(limit=0), 0, 0, id="suspended"),
    ],
)
async def test_replica_alone_admits_its_share(
    replica: OneOfFour, demand: MakeDemand, limit: Limit, tokens: int, expected: int
) -> None:
    """A quarter of each limit, and neither more nor less."""
    replica.cut()

    assert expected == await admit_all(replica.ledger, plan_of(limit), demand, tokens)
    assert replica.shared.calls == []


async def test_share_refills_at_its_part_of_the_pace(
    replica: OneOfFour, demand: MakeDemand, clock: Clock
) -> None:
    """Fifteen of sixty a minute."""
    replica.cut()
    plan = plan_of(RATE)
    await admit_all(replica.ledger, plan, demand)

    clock.advance(20_000)

    assert 5 == await admit_all(replica.ledger, plan, demand)


async def test_share_is_of_what_is_left(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """Of 1000 with 600 used, 400 are left to four."""
    plan = plan_of(TOKENS)
    asked = demand(plan, 600)
    await ledger.admit(asked)
    await ledger.settle("acme", asked.lease_id, Usage(1, 600))
    replica.cut()

    assert 10 == await admit_all(ledger, plan, demand, 10)


async def test_refund_is_known(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """A reservation that was given back is not taken for use."""
    plan = plan_of(TOKENS)
    asked = demand(plan, 1000)
    await ledger.admit(asked)
    await ledger.settle("acme", asked.lease_id, Usage(1, 200))
    replica.cut()

    assert 20 == await admit_all(ledger, plan, demand, 10)


async def test_spent_quota_stays_spent(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger, clock: Clock
) -> None:
    """A month that is over does not open again, and is said to be over."""
    plan = plan_of(TOKENS)
    await ledger.admit(demand(plan, 990))
    replica.cut()

    decision = await ledger.admit(demand(plan, 20))

    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.is_exact) == ("quota", False)
    assert (decision.binding.limit, decision.binding.used) == (TOKENS, 990)
    assert decision.retry_after_ms == decision.binding.reset_after_ms > 0
    clock.travel_to("2026-11-03T00:00:00")
    assert isinstance(await ledger.admit(demand(plan, 20)), Admitted)


async def test_quota_that_is_not_known_to_be_spent_is_not_said_to_be(
    replica: OneOfFour, demand: MakeDemand
) -> None:
    """A client would give up for the month; it is told to come again soon instead."""
    replica.cut()
    plan = plan_of(TOKENS)
    assert isinstance(await replica.ledger.admit(demand(plan, 240)), Admitted)

    with pytest.raises(LedgerUnavailable) as refused:
        await replica.ledger.admit(demand(plan, 20))

    assert refused.value.retry_after_ms == AWAY_FIRST_MS


async def test_own_use_adds_to_what_is_known(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """What the share admits is used of the plan, too."""
    plan = plan_of(TOKENS)
    await ledger.admit(demand(plan, 800))
    replica.cut()
    await ledger.admit(demand(plan, 45))

    with pytest.raises(LedgerUnavailable):
        await ledger.admit(demand(plan, 155))
    decision = await ledger.admit(demand(plan, 156))

    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.binding.used) == ("quota", 845)


async def test_request_larger_than_the_share_is_told_to_come_again(
    replica: OneOfFour, demand: MakeDemand
) -> None:
    """It fits the plan, so it is not too large."""
    replica.cut()

    with pytest.raises(LedgerUnavailable):
        await replica.ledger.admit(demand(plan_of(TOKENS), 251))


async def test_request_larger_than_the_plan_is_refused_by_the_plans_number(
    replica: OneOfFour, demand: MakeDemand
) -> None:
    """Waiting cannot help, with or without a store."""
    replica.cut()

    decision = await replica.ledger.admit(demand(plan_of(RATE, TOKENS), 1001))

    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.retry_after_ms) == ("too_large", None)
    assert (decision.binding.limit, decision.requested) == (TOKENS, 1001)


async def test_leases_that_run_take_places_of_the_share(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """And give them back; their reservations are not charged twice."""
    plan = plan_of(PLACES, TOKENS)
    first = demand(plan, 600)
    await ledger.admit(first)
    replica.cut()

    assert 1 == await admit_all(ledger, plan, demand)
    await ledger.settle("acme", first.lease_id, Usage(1, 600))
    assert 1 == await admit_all(ledger, plan, demand, 100)


async def test_top_up_of_a_lease_that_runs_is_charged_to_the_share(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """What turns out dearer than its reservation is used of what was left."""
    plan = plan_of(TOKENS)
    first = demand(plan, 600)
    await ledger.admit(first)
    replica.cut()
    assert isinstance(await ledger.admit(demand(plan)), Admitted)
    await ledger.settle("acme", first.lease_id, Usage(1, 660))

    assert 4 == await admit_all(ledger, plan, demand, 10)


async def test_key_is_held_to_its_share_too(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """Of what is left to the key; another key has its own."""
    limits = KeyLimits(quotas=(Quota(of="requests", limit=40, per="day"),))
    plan = plan_of()

    def asked(key_id: str, requests: int = 1) -> Demand:
        made = demand(plan, requests=requests)
        return Demand(
            workspace=made.workspace,
            plan=plan,
            lease_id=made.lease_id,
            reserve=made.reserve,
            key=KeyScope(key_id, limits),
        )

    await ledger.admit(asked("used", 20))
    replica.cut()

    assert 5 == await admit_all(ledger, plan, lambda *_: asked("used"))
    assert 10 == await admit_all(ledger, plan, lambda *_: asked("new"))


async def test_suspended_workspace_is_refused_for_good(
    replica: OneOfFour, demand: MakeDemand
) -> None:
    """It has no place, with a store or without."""
    replica.cut()

    decision = await replica.ledger.admit(demand(plan_of(Concurrency(limit=0))))

    assert isinstance(decision, Rejected)
    assert (decision.reason, decision.is_exact) == ("too_large", False)


async def test_long_outage_remembers_no_more_workspaces_than_are_known(
    replica: OneOfFour, demand: MakeDemand
) -> None:
    """Strangers with keys of their own may be many, and each comes once."""
    replica.cut()
    plan = plan_of(RATE)
    for number in range(MAX_STANDINGS + 50):
        await replica.ledger.preview(demand(plan, workspace=f"w{number}"))

    assert replica.ledger.share_size == MAX_STANDINGS


@pytest.mark.parametrize("is_over", [True, False], ids=["ended", "running"])
async def test_progress_the_store_has_charged_counts_once(
    replica: OneOfFour, demand: MakeDemand, *, is_over: bool
) -> None:
    """A long stream renewed above its reservation must not spend the month twice."""
    plan = plan_of(Quota(of="tokens", limit=1000, per="month"))
    ledger, long = replica.ledger, demand(plan, 10)
    await ledger.admit(long)
    await ledger.renew("acme", long.lease_id, 400)
    await ledger.admit(demand(plan, 0))
    if is_over:
        await ledger.settle("acme", long.lease_id, Usage(1, 420))
    replica.cut()
    await ledger.preview(demand(plan, 1))
    if not is_over:
        await ledger.renew("acme", long.lease_id, 420)

    # 600 were left, of which one of four may have 150, less the 20 that came since.
    assert isinstance(await ledger.preview(demand(plan, 120)), Admitted)
    with pytest.raises(LedgerUnavailable):
        await ledger.preview(demand(plan, 160))
