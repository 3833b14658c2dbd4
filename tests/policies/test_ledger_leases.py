"""How leases live, are renewed and are abandoned, on every ledger."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from policies.ledger import (
    NOTHING,
    Admitted,
    Demand,
    LeaseSettled,
    Ledger,
    Rejected,
    Usage,
)
from policies.plans import Concurrency, Plan, Quota, Rate

MakeDemand = Callable[..., Demand]
Advance = Callable[[int], None]

HOUR_MS = 3_600_000
QUOTA = Quota(of="tokens", limit=5000, per="day")
PLAN = Plan(plan="p", quotas=(QUOTA,), concurrency=Concurrency(limit=1))


async def used(ledger: Ledger, plan: Plan = PLAN) -> list[int]:
    return [state.used for state in await ledger.inspect("acme", plan)]


@pytest.fixture
async def lease(ledger: Ledger, demand: MakeDemand) -> str:
    """The only lease of the plan, with a reservation of 600 tokens."""
    decision = await ledger.admit(demand(PLAN, 600))
    assert isinstance(decision, Admitted)
    return decision.lease_id


async def test_settled_lease_frees_its_place_at_once(
    ledger: Ledger, lease: str, demand: MakeDemand
) -> None:
    """The next request does not wait for any ttl."""
    assert isinstance(await ledger.admit(demand(PLAN)), Rejected)

    await ledger.settle("acme", lease, NOTHING)

    assert isinstance(await ledger.admit(demand(PLAN)), Admitted)


async def test_a_lease_may_take_no_place(ledger: Ledger, demand: MakeDemand) -> None:
    """Charged and not yet settled, it leaves the only place to others."""
    passing = msgspec.structs.replace(demand(PLAN, 600), takes_place=False)
    assert isinstance(await ledger.admit(passing), Admitted)
    assert [600, 0] == await used(ledger)

    assert isinstance(await ledger.admit(demand(PLAN)), Admitted)
    await ledger.settle("acme", passing.lease_id, Usage(1, 200))

    assert isinstance(await ledger.admit(demand(PLAN)), Rejected)
    assert [200, 1] == await used(ledger)


async def test_abandoned_lease_frees_its_place_after_one_ttl(
    ledger: Ledger, lease: str, demand: MakeDemand, advance: Advance
) -> None:
    """A crashed owner blocks for one ttl, to the millisecond."""
    advance(ledger.lease_ttl_ms - 1)
    assert isinstance(await ledger.admit(demand(PLAN)), Rejected)

    advance(1)

    assert isinstance(await ledger.admit(demand(PLAN)), Admitted)


async def test_renewed_lease_lives_on(
    ledger: Ledger, lease: str, demand: MakeDemand, advance: Advance
) -> None:
    """A stream of hours still counts at its end."""
    for _ in range(100):
        advance(ledger.lease_ttl_ms - 1)
        assert await ledger.renew("acme", lease, 1)

    assert isinstance(await ledger.admit(demand(PLAN)), Rejected)
    assert await ledger.settle("acme", lease, Usage(1, 10))
    assert await used(ledger) == [10, 0]


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([], 600, id="none-costs-the-reservation"),
        pytest.param([0, 0], 600, id="zero-is-no-report"),
        pytest.param([100], 100, id="one"),
        pytest.param([100, 250], 250, id="last"),
        pytest.param([250, 100], 250, id="never-falls"),
        pytest.param([900], 900, id="beyond-the-reservation"),
        pytest.param([-5], 600, id="negative-is-no-report"),
    ],
)
async def test_abandoned_lease_is_settled_at_its_last_progress(
    ledger: Ledger, lease: str, advance: Advance, reports: list[int], expected: int
) -> None:
    """What a crashed owner had reported is charged, and nothing more."""
    for tokens in reports:
        await ledger.renew("acme", lease, tokens)

    advance(ledger.lease_ttl_ms)

    assert await used(ledger) == [expected, 0]


async def test_owner_that_was_taken_for_dead_corrects_the_amount(
    ledger: Ledger, lease: str, advance: Advance
) -> None:
    """An outage longer than a lease makes no charge wrong: its owner knows better."""
    await ledger.renew("acme", lease, 100)
    advance(ledger.lease_ttl_ms)
    assert await used(ledger) == [100, 0]

    assert await ledger.settle("acme", lease, Usage(1, 5))

    assert await used(ledger) == [5, 0]
    assert not await ledger.settle("acme", lease, Usage(1, 50))


async def test_owner_that_was_taken_for_dead_is_heard_for_an_hour(
    ledger: Ledger, lease: str, advance: Advance
) -> None:
    """Then what was presumed stands."""
    advance(ledger.lease_ttl_ms + HOUR_MS - 1)
    assert await used(ledger) == [600, 0]
    advance(1)

    assert not await ledger.settle("acme", lease, Usage(1, 5))

    assert await used(ledger) == [600, 0]


async def test_abandoned_lease_is_not_admitted_again(
    ledger: Ledger, lease: str, advance: Advance, demand: MakeDemand
) -> None:
    """Its id has had its admission."""
    advance(ledger.lease_ttl_ms)

    with pytest.raises(LeaseSettled):
        await ledger.admit(demand(PLAN, 600, lease_id=lease))

    assert await used(ledger) == [600, 0]


async def test_settlement_that_overtakes_its_admission_bars_it(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A cancelled admission may still be on its way; it must not hold a place."""
    assert not await ledger.settle("acme", "late", NOTHING)

    with pytest.raises(LeaseSettled):
        await ledger.admit(demand(PLAN, 600, lease_id="late"))
    assert await used(ledger) == [0, 0]

    advance(ledger.lease_ttl_ms)
    assert isinstance(await ledger.admit(demand(PLAN, lease_id="late")), Admitted)


async def test_renewal_after_the_end_is_refused(
    ledger: Ledger, lease: str, advance: Advance
) -> None:
    """An owner that comes too late learns that its place is gone."""
    advance(ledger.lease_ttl_ms)

    assert not await ledger.renew("acme", lease, 100)

    assert await used(ledger) == [600, 0]


async def test_lease_that_is_settled_or_unknown_cannot_be_renewed(
    ledger: Ledger, lease: str
) -> None:
    """Renewal keeps what is held and brings nothing back."""
    await ledger.settle("acme", lease, NOTHING)

    assert not await ledger.renew("acme", lease, 1)
    assert not await ledger.renew("acme", "no such lease", 1)
    assert not await ledger.renew("nobody", lease, 1)


async def test_repeated_admission_keeps_the_lease_alive(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Whoever asks again is there, so its lease lives a whole ttl from then."""
    asked = demand(PLAN, 600, lease_id="mine")
    await ledger.admit(asked)
    advance(ledger.lease_ttl_ms - 1)

    await ledger.admit(asked)
    advance(ledger.lease_ttl_ms - 1)

    assert await ledger.renew("acme", "mine", 1)


async def test_abandonment_of_one_lease_leaves_the_others(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Leases end by their own time, in whatever order they were renewed."""
    plan = Plan(plan="p", concurrency=Concurrency(limit=3))
    for lease_id in "abc":
        await ledger.admit(demand(plan, lease_id=lease_id))
    advance(20_000)
    await ledger.renew("acme", "a", 1)
    advance(ledger.lease_ttl_ms - 20_000)

    assert await used(ledger, plan) == [1]
    assert await ledger.settle("acme", "a", NOTHING)


async def test_abandoned_lease_of_another_window_leaves_this_one_alone(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Settling late does not refund a window that was never charged."""
    plan = Plan(plan="p", quotas=(Quota(of="tokens", limit=5000, per="hour"),))
    advance(3_600_000 - 1000)
    await ledger.admit(demand(plan, 600, lease_id="gone"))
    await ledger.renew("acme", "gone", 1)
    advance(2000)
    await ledger.admit(demand(plan, 100))

    advance(ledger.lease_ttl_ms - 2000)

    assert await used(ledger, plan) == [100]


async def test_abandoned_reservation_of_a_rate_is_refunded(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A bucket gets back what a crashed request had not used."""
    plan = Plan(plan="p", rates=(Rate(of="tokens", limit=2400, per="day"),))
    await ledger.admit(demand(plan, 2000, lease_id="gone"))
    await ledger.renew("acme", "gone", 500)

    advance(ledger.lease_ttl_ms)

    assert await used(ledger, plan) == [500]


async def test_what_exceeds_the_reservation_is_charged_while_it_runs(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """A stream that is longer than estimated takes from its limits as it grows."""
    plan = Plan(plan="p", quotas=(Quota(of="tokens", limit=1000, per="day"),))
    await ledger.admit(demand(plan, 100, lease_id="long"))
    seen = []
    for tokens in (50, 700, 300):
        assert await ledger.renew("acme", "long", tokens)
        seen += await used(ledger, plan)

    assert await ledger.settle("acme", "long", Usage(1, 400))

    assert [*seen, *await used(ledger, plan)] == [100, 700, 700, 400]


async def test_progress_of_an_abandoned_lease_counts_however_late_one_looks(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Not even after more than the hour for which its owner might have come back."""
    plan = Plan(plan="p", rates=(Rate(of="tokens", limit=24_000, per="day"),))
    await ledger.admit(demand(plan, 10, lease_id="gone"))
    await ledger.renew("acme", "gone", 20_000)

    advance(2 * HOUR_MS)

    assert await used(ledger, plan) == [18_000]


async def test_adopted_lease_is_charged_to_the_window_it_was_admitted_in(
    ledger: Ledger, demand: MakeDemand, travel_to: Callable[[str], None]
) -> None:
    """What is told after midnight was yesterday's, and holds a place today."""
    travel_to("2026-11-03T00:00:01")
    await ledger.admit(demand(PLAN, 0, lease_id="today"))
    await ledger.settle("acme", "today", Usage(1, 7))

    assert await ledger.adopt(demand(PLAN, 600, lease_id="old"), age_ms=2000)
    assert await used(ledger) == [7, 1]
    assert await ledger.settle("acme", "old", Usage(1, 900))

    assert await used(ledger) == [7, 0]


async def test_adopted_lease_has_refilled_as_long_as_it_is_old(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """A rate forgets what was spent a while ago, whoever admitted it."""
    plan = Plan(plan="p", rates=(Rate(of="tokens", limit=600, per="minute"),))
    await ledger.adopt(demand(plan, 100, lease_id="old"), age_ms=4000)

    assert await used(ledger, plan) == [60]


async def test_late_correction_finds_a_workspace_that_was_idle_meanwhile(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Nothing is forgotten that an owner may still come back to."""
    plan = Plan(plan="p", rates=(Rate(of="tokens", limit=60_000, per="minute"),))
    await ledger.admit(demand(plan, 100, lease_id="old"))
    advance(20 * 60_000)
    await ledger.admit(demand(plan, workspace="other"))
    assert isinstance(await ledger.admit(demand(plan)), Admitted)

    assert await ledger.settle("acme", "old", Usage(1, 50_000))

    assert await used(ledger, plan) == [49_900]


@pytest.mark.parametrize("finder", ["admission", "settlement", "renewal"])
async def test_an_abandoned_lease_is_counted_once_by_who_finds_it(
    ledger: Ledger, lease: str, demand: MakeDemand, advance: Advance, finder: str
) -> None:
    """An operator is to know that a replica died; looking at the limits finds none."""
    advance(ledger.lease_ttl_ms)
    await ledger.preview(demand(PLAN))

    match finder:
        case "admission":
            await ledger.admit(demand(PLAN))
        case "settlement":
            await ledger.settle("acme", lease, Usage(1, 10))
        case _:
            await ledger.renew("acme", lease, 10)
    await ledger.admit(demand(PLAN))
    await ledger.settle("acme", "another", NOTHING)

    assert ledger.abandoned_total == 1
