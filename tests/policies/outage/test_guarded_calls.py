"""What becomes of each call of the port while the store fails, call by call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from policies.ledger import (
    NOTHING,
    Admitted,
    Decision,
    Demand,
    LedgerUnavailable,
    LimitState,
    Rejected,
    Usage,
)
from policies.outage.guarded_ledger import EPISODE_US, GuardedLedger
from policies.outage.last_known import LastKnown
from policies.outage.store_health import AWAY_FIRST_MS
from policies.plans import Concurrency
from tests.policies.conftest import Clock
from tests.policies.outage.lossy_ledger import Fate
from tests.policies.outage.one_of_four import (
    PLACES,
    RATE,
    TOKENS,
    OneOfFour,
    one_of_four,
    plan_of,
)

MakeDemand = Callable[..., Demand]


async def test_open_plan_admits_and_counts(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """Nobody is refused, and an operator sees how many were not counted."""
    plan = plan_of(Concurrency(limit=1), on_store_failure="open")
    replica.cut()
    for _ in range(3):
        decision = await ledger.admit(demand(plan))
        assert decision == Admitted(
            lease_id=decision.lease_id if isinstance(decision, Admitted) else "",
            states=(),
            is_exact=False,
        )

    assert ledger.decided == {("open", "admitted"): 3}
    assert await ledger.inspect("acme", plan) == ()
    assert (await ledger.preview(demand(plan))).states == ()


async def test_closed_plan_refuses_with_a_wait(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """As long as it may take, for a decision and for a look, and nothing is kept."""
    plan = plan_of(on_store_failure="closed")
    replica.cut()

    for look in (
        lambda: ledger.admit(demand(plan)),
        lambda: ledger.preview(demand(plan)),
        lambda: ledger.inspect("acme", plan),
    ):
        with pytest.raises(LedgerUnavailable) as refused:
            await look()
        assert refused.value.retry_after_ms == AWAY_FIRST_MS
    assert ledger.decided == {("closed", "undecided"): 1}
    assert ledger.journal.depth == 0


async def test_preview_and_inspect_answer_from_the_share(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """What would be decided now, by the numbers it would be decided by."""
    plan = plan_of(RATE)
    replica.cut()
    await ledger.admit(demand(plan))

    preview = await ledger.preview(demand(plan, requests=9))
    states = await ledger.inspect("acme", plan)

    assert isinstance(preview, Admitted)
    assert not preview.is_exact
    assert [(state.capacity, state.used) for state in states] == [(10, 1)]
    with pytest.raises(LedgerUnavailable):
        await ledger.preview(demand(plan, requests=11))


async def test_what_a_share_refuses_is_told_apart_from_what_it_cannot_decide(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """A spent share is a limit's no; a request too large for it waits for the store."""
    plan = plan_of(RATE)
    replica.cut()

    assert isinstance(await ledger.admit(demand(plan, requests=9)), Admitted)
    assert isinstance(await ledger.admit(demand(plan, requests=9)), Rejected)
    with pytest.raises(LedgerUnavailable):
        await ledger.admit(demand(plan, requests=11))

    outcomes = ("admitted", "rejected", "undecided")
    assert ledger.decided == {("share", outcome): 1 for outcome in outcomes}


async def test_repeated_admission_is_the_same_lease(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """Whoever admitted it first, and whether the store is there or not."""
    plan = plan_of(Concurrency(limit=4))
    exact = demand(plan)
    await ledger.admit(exact)
    replica.cut()

    assert isinstance(await ledger.admit(exact), Admitted)
    assert isinstance(await ledger.admit(demand(plan)), Rejected)


async def test_flickering_store_grants_one_share_in_half_a_minute(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger, clock: Clock
) -> None:
    """However often single calls fail, the share is not new each time."""
    plan = plan_of(TOKENS)
    admitted = [0, 0]
    for episode in range(2):
        for _ in range(40):
            replica.line.is_cut = True
            asked = demand(plan, 25)
            with suppress(LedgerUnavailable):
                admitted[episode] += isinstance(await ledger.admit(asked), Admitted)
            replica.line.is_cut = False
            await ledger.settle("acme", asked.lease_id, asked.reserve)
            await ledger.preview(asked)
            assert ledger.health.is_closed
        clock.advance(EPISODE_US // 1000 + 1)

    # A quarter of 1000, then of the 750 that are left.
    assert admitted == [10, 7]


async def test_failed_call_is_made_up_for_by_the_next_renewal(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """A lease the store never heard of is held by it before it ends."""
    plan = plan_of(PLACES)
    replica.line.is_cut = True
    asked = demand(plan)
    await ledger.admit(asked)
    replica.line.is_cut = False

    assert await ledger.renew("acme", asked.lease_id, 5)

    assert [1] == [s.used for s in await replica.shared.memory.inspect("acme", plan)]


async def test_renewals_go_on_without_the_store(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger, clock: Clock
) -> None:
    """A lease that runs keeps its place for longer than a ttl; strangers have none."""
    plan = plan_of(Concurrency(limit=4))
    asked = demand(plan)
    await ledger.admit(asked)
    replica.cut()
    for _ in range(5):
        assert isinstance(await ledger.admit(demand(plan)), Rejected)
        clock.advance(ledger.lease_ttl_ms - 1)
        assert await ledger.renew("acme", asked.lease_id, 5)

    assert not await ledger.renew("acme", "unknown", 5)


async def test_lease_that_ends_unused_without_a_store_leaves_nothing(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """The store never heard of it, and never needs to."""
    plan = plan_of(Concurrency(limit=4))
    replica.cut()
    asked = demand(plan)
    await ledger.admit(asked)

    assert await ledger.settle("acme", asked.lease_id, NOTHING)
    assert not await ledger.settle("acme", "unknown", NOTHING)

    assert ledger.journal.depth == 0
    assert isinstance(await ledger.admit(demand(plan)), Admitted)


async def test_lease_adopted_without_a_store_counts(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """It takes a place of the share, and is told to the store later."""
    plan = plan_of(Concurrency(limit=4))
    replica.cut()

    assert await ledger.adopt(demand(plan))

    assert isinstance(await ledger.admit(demand(plan)), Rejected)


def test_least_recently_seen_workspaces_are_forgotten(demand: MakeDemand) -> None:
    """What is known takes bounded memory."""
    known = LastKnown(max_standings=2)
    state = LimitState(limit=TOKENS, capacity=1000, used=1, reset_after_ms=1)
    for workspace in ("a", "b", "a", "c"):
        known.note(demand(plan_of(), workspace=workspace), (state,), 1)

    assert [known.find(name) is not None for name in "abc"] == [True, False, True]
    assert len(known) == 2


def exactness(decision: Decision) -> bool:
    return decision.is_exact


async def test_decisions_are_exact_while_the_store_answers(
    ledger: GuardedLedger, demand: MakeDemand
) -> None:
    """And settling tells whether there was something to settle."""
    plan = plan_of(RATE)
    asked = demand(plan)

    assert exactness(await ledger.admit(asked))
    assert exactness(await ledger.preview(asked))
    assert [1] == [state.used for state in await ledger.inspect("acme", plan)]
    assert await ledger.settle("acme", asked.lease_id, Usage(1, 5))
    assert not await ledger.settle("acme", asked.lease_id, Usage(1, 5))


async def test_late_renewal_is_told_that_the_lease_is_gone(
    ledger: GuardedLedger, demand: MakeDemand, clock: Clock
) -> None:
    """With a store that answers, the port's rule holds: it was taken for dead."""
    asked = demand(plan_of(PLACES))
    await ledger.admit(asked)
    clock.advance(ledger.lease_ttl_ms)

    assert not await ledger.renew("acme", asked.lease_id, 5)


async def test_lease_of_a_share_is_not_decided_anew(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """Repeated when the store is there again, it is held, though there is no room."""
    plan = plan_of(Concurrency(limit=1))
    replica.line.is_cut = True
    mine = demand(plan)
    await ledger.admit(mine)
    assert isinstance(await ledger.admit(mine), Admitted)
    replica.line.is_cut = False
    await replica.shared.admit(demand(plan))

    decision = await ledger.admit(mine)

    assert isinstance(decision, Admitted)
    assert decision.is_exact
    assert [2] == [s.used for s in await replica.shared.memory.inspect("acme", plan)]


async def test_adoption_is_passed_on(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """To a store that answers at once, to one that does not by the next renewal."""
    plan = plan_of(PLACES)
    first, second, ended = demand(plan), demand(plan), demand(plan)
    assert await ledger.adopt(first, age_ms=500)
    replica.line.is_cut = True
    assert await ledger.adopt(second, age_ms=500)
    assert await ledger.renew("acme", second.lease_id, 1)
    replica.line.is_cut = False
    await replica.shared.settle("acme", ended.lease_id, NOTHING)
    assert not await ledger.adopt(ended)
    assert not await ledger.renew("acme", ended.lease_id, 1)

    assert await ledger.renew("acme", second.lease_id, 1)

    assert [2] == [s.used for s in await replica.shared.memory.inspect("acme", plan)]


async def test_single_failures_are_answered_by_the_share(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """Each look that the store does not answer, with the breaker still closed."""
    plan = plan_of(RATE)
    replica.line.is_cut = True

    preview = await ledger.preview(demand(plan))
    states = await ledger.inspect("acme", plan)

    assert ledger.health.is_closed
    assert not preview.is_exact
    assert [10] == [state.capacity for state in states]
    assert ledger.health.errors == {"connection": 2}


async def test_stranger_is_settled_by_what_the_store_says(
    replica: OneOfFour, demand: MakeDemand, ledger: GuardedLedger
) -> None:
    """A lease that another admitted; kept if the store is away, and only once."""
    plan = plan_of(TOKENS)
    asked = demand(plan, 500)
    await replica.shared.admit(asked)
    replica.cut()

    assert await ledger.settle("acme", asked.lease_id, Usage(1, 30))
    assert not await ledger.settle("acme", asked.lease_id, Usage(1, 30))

    assert ledger.journal.depth == 1
    replica.line.is_cut = False
    await ledger.journal.send_batch(ledger.courier.send)
    assert [30] == [s.used for s in await replica.shared.memory.inspect("acme", plan)]


@pytest.mark.parametrize("fate", ["lost", "reply lost"])
async def test_admission_without_an_answer_is_run_and_charged_once(
    clock: Clock, demand: MakeDemand, fate: Fate
) -> None:
    """Admitted by the share under the same id, whether the store admitted it or not."""
    async with one_of_four(clock, [fate]) as replica:
        ledger, plan = replica.ledger, plan_of(TOKENS, PLACES)
        asked = demand(plan, 200)
        decision = await ledger.admit(asked)
        assert isinstance(decision, Admitted)
        assert not decision.is_exact

        assert await ledger.settle("acme", asked.lease_id, Usage(1, 30))

        states = await replica.shared.memory.inspect("acme", plan)
        assert [30, 0] == [state.used for state in states]


@pytest.mark.parametrize("requests", [1, 11], ids=["rejected", "unavailable"])
async def test_refusal_after_a_lost_answer_takes_the_admission_back(
    clock: Clock, demand: MakeDemand, requests: int
) -> None:
    """What the store admitted and the share refuses holds no place."""
    async with one_of_four(clock, ["refused", "reply lost"]) as replica:
        ledger, plan = replica.ledger, plan_of(PLACES, RATE)
        await ledger.admit(demand(plan, requests=10))

        with suppress(LedgerUnavailable):
            refused = await ledger.admit(demand(plan, requests=requests))
            assert isinstance(refused, Rejected)
        await ledger.journal.send_batch(ledger.courier.send)

        states = await replica.shared.memory.inspect("acme", plan)
        assert [0, 0] == [state.used for state in states]
