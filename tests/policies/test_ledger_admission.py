"""What an admission checks, charges and answers, on every ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from policies.ledger import (
    Admitted,
    Demand,
    KeyScope,
    LeaseSettled,
    Ledger,
    Rejected,
    Usage,
)
from policies.plans import Concurrency, KeyLimits, Limit, Plan, Quota, Rate

MakeDemand = Callable[..., Demand]
Advance = Callable[[int], None]

RATE = Rate(of="requests", limit=5, per="minute")
TOKEN_RATE = Rate(of="tokens", limit=1000, per="minute")
DAY = Quota(of="requests", limit=8, per="day")
MONTH = Quota(of="tokens", limit=5000, per="month")
PLACES = Concurrency(limit=3)
FULL = Plan(
    plan="full", rates=(RATE, TOKEN_RATE), quotas=(DAY, MONTH), concurrency=PLACES
)


async def used(ledger: Ledger, plan: Plan, workspace: str = "acme") -> list[int]:
    return [state.used for state in await ledger.inspect(workspace, plan)]


async def admit_times(ledger: Ledger, make: MakeDemand, plan: Plan, times: int) -> None:
    for _ in range(times):
        assert isinstance(await ledger.admit(make(plan)), Admitted)


async def reject(ledger: Ledger, demand: Demand) -> Rejected:
    decision = await ledger.admit(demand)
    assert isinstance(decision, Rejected)
    return decision


async def test_untouched_workspace_has_everything_left(ledger: Ledger) -> None:
    """Whoever has used nothing sees every limit of the plan, whole and in order."""
    states = await ledger.inspect("acme", FULL)

    assert [state.limit for state in states] == [RATE, TOKEN_RATE, DAY, MONTH, PLACES]
    assert [state.remaining for state in states] == [5, 1000, 8, 5000, 3]
    assert [state.capacity for state in states] == [5, 1000, 8, 5000, 3]


async def test_admission_charges_every_limit(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """The states an admission answers are those that include its own charge."""
    decision = await ledger.admit(demand(FULL, 400))

    assert isinstance(decision, Admitted)
    assert [state.used for state in decision.states] == [1, 400, 1, 400, 1]
    assert decision.states == await ledger.inspect("acme", FULL)


async def test_states_say_when_a_limit_is_untouched_again(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """A bucket tells its time to full, a window its end, concurrency nothing."""
    decision = await ledger.admit(demand(FULL, 400))

    day_ms, month_ms = 18 * 3_600_000, (28 * 24 + 18) * 3_600_000
    assert [state.reset_after_ms for state in decision.states] == [
        12_000,
        24_000,
        day_ms,
        month_ms,
        0,
    ]


async def test_plan_without_limits_admits_anything(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """What is absent from a plan is unlimited."""
    decision = await ledger.admit(demand(Plan(plan="free"), 2**40))

    assert isinstance(decision, Admitted)
    assert decision.states == ()


async def test_hundred_concurrent_admissions_take_exactly_five_places(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """No interleaving lets a sixth request in."""
    plan = Plan(plan="p", concurrency=Concurrency(limit=5))

    decisions = await asyncio.gather(*(ledger.admit(demand(plan)) for _ in range(100)))

    assert sum(isinstance(decision, Admitted) for decision in decisions) == 5


async def test_hundred_concurrent_admissions_spend_exactly_five(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """A bucket of five is not overdrawn by requests that arrive together."""
    decisions = await asyncio.gather(
        *(ledger.admit(demand(Plan(plan="p", rates=(RATE,)))) for _ in range(100))
    )

    assert sum(isinstance(decision, Admitted) for decision in decisions) == 5


@pytest.mark.parametrize(
    ("limits", "tokens", "reason"),
    [
        pytest.param({"concurrency": Concurrency(limit=0)}, 1, "too_large", id="last"),
        pytest.param(
            {"quotas": (Quota(of="tokens", limit=5, per="day"),)},
            6,
            "too_large",
            id="quota",
        ),
        pytest.param(
            {"rates": (RATE, Rate(of="tokens", limit=5, per="day"))},
            6,
            "too_large",
            id="rate",
        ),
    ],
)
async def test_request_refused_by_its_last_limit_spends_nothing_on_its_first(
    ledger: Ledger,
    demand: MakeDemand,
    limits: dict[str, Limit],
    tokens: int,
    reason: str,
) -> None:
    """All limits are charged or none."""
    plan = Plan(plan="p", **{"rates": (RATE,), **limits})  # type: ignore[arg-type]  # a table of fields

    decision = await reject(ledger, demand(plan, tokens))

    assert decision.reason == reason
    assert sum(await used(ledger, plan)) == 0
    assert decision.states == await ledger.inspect("acme", plan)


async def test_rejections_do_not_prolong_the_wait(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Whoever keeps knocking is let in as early as whoever waits."""
    plan = Plan(plan="p", rates=(RATE,))
    await admit_times(ledger, demand, plan, 5)

    for _ in range(100):
        await reject(ledger, demand(plan))
    advance(12_000)

    await admit_times(ledger, demand, plan, 1)


async def test_wait_of_a_rate_is_exact(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """One millisecond before its end a request is refused, at its end admitted."""
    plan = Plan(plan="p", rates=(Rate(of="requests", limit=7, per="minute"),))
    await admit_times(ledger, demand, plan, 7)

    decision = await reject(ledger, demand(plan))
    assert (decision.reason, decision.retry_after_ms) == ("rate", 8572)

    advance(8571)
    assert (await reject(ledger, demand(plan))).retry_after_ms == 1
    advance(1)
    await admit_times(ledger, demand, plan, 1)


async def test_wait_of_a_quota_is_to_its_windows_end(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A spent quota admits again with the first millisecond of its next window."""
    plan = Plan(plan="p", quotas=(Quota(of="requests", limit=2, per="hour"),))
    await admit_times(ledger, demand, plan, 2)
    advance(1)

    decision = await reject(ledger, demand(plan))
    assert (decision.reason, decision.retry_after_ms) == ("quota", 3_599_999)

    advance(3_599_998)
    assert (await reject(ledger, demand(plan))).retry_after_ms == 1
    advance(1)
    await admit_times(ledger, demand, plan, 2)


async def test_quota_starts_anew_in_its_windows_first_instant(
    ledger: Ledger, demand: MakeDemand, travel_to: Callable[[str], None]
) -> None:
    """Midnight belongs to the new day, also for a workspace that is busy then."""
    plan = Plan(plan="p", quotas=(Quota(of="requests", limit=2, per="day"),))
    travel_to("2026-11-02T23:59:59")
    await admit_times(ledger, demand, plan, 2)

    travel_to("2026-11-03T00:00:00")
    await admit_times(ledger, demand, plan, 2)

    assert await used(ledger, plan) == [2]


async def test_longest_wait_binds(ledger: Ledger, demand: MakeDemand) -> None:
    """The limit named is the one whose wait, once over, lets the request in."""
    quota = Quota(of="requests", limit=2, per="day")
    rate = Rate(of="requests", limit=2, per="minute")
    plan = Plan(plan="p", rates=(rate,), quotas=(quota,))
    await admit_times(ledger, demand, plan, 2)

    decision = await reject(ledger, demand(plan))

    assert (decision.reason, decision.binding.limit) == ("quota", quota)
    assert (decision.requested, decision.binding.used) == (1, 2)


@pytest.mark.parametrize("tokens", [1001, 5001])
async def test_request_beyond_the_whole_limit_is_too_large(
    ledger: Ledger, demand: MakeDemand, tokens: int
) -> None:
    """What waiting cannot help is said at once, before any wait of another limit."""
    await admit_times(ledger, demand, FULL, 3)

    decision = await reject(ledger, demand(FULL, tokens))

    assert decision.reason == "too_large"
    assert decision.retry_after_ms is None
    assert (decision.binding.limit, decision.requested) == (TOKEN_RATE, tokens)


async def test_request_of_the_whole_limit_is_not_too_large(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """Capacity and budget can be spent to the last unit."""
    quota = Quota(of="tokens", limit=1000, per="day")
    plan = Plan(plan="p", rates=(TOKEN_RATE,), quotas=(quota,))

    assert isinstance(await ledger.admit(demand(plan, 1000)), Admitted)


async def test_request_of_the_whole_bucket_waits_for_it_to_be_full(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """What fits an idle bucket is never too large for a busy one."""
    plan = Plan(plan="p", rates=(TOKEN_RATE,))
    await ledger.admit(demand(plan, 1))

    decision = await reject(ledger, demand(plan, 1000))

    assert (decision.reason, decision.retry_after_ms) == ("rate", 60)


async def test_concurrency_binds_only_alone(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A wait that is known is worth more to the client than one that is not."""
    plan = Plan(plan="p", rates=(RATE,), concurrency=Concurrency(limit=5))
    await admit_times(ledger, demand, plan, 5)

    both = await reject(ledger, demand(plan))
    advance(12_000)
    alone = await reject(ledger, demand(plan))

    assert (both.reason, both.retry_after_ms) == ("rate", 12_000)
    assert (alone.reason, alone.retry_after_ms) == ("concurrency", None)
    assert (alone.requested, alone.binding.used) == (1, 5)


async def test_concurrency_of_zero_suspends(ledger: Ledger, demand: MakeDemand) -> None:
    """A suspended workspace is refused, and waiting does not help it."""
    plan = Plan(plan="p", rates=(RATE,), concurrency=Concurrency(limit=0))

    decision = await reject(ledger, demand(plan))

    assert (decision.reason, decision.retry_after_ms) == ("too_large", None)


async def test_burst_is_what_can_be_spent_at_once(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A smaller burst spreads a rate out without lowering it."""
    plan = Plan(plan="p", rates=(Rate(of="requests", limit=60, per="minute", burst=2),))
    await admit_times(ledger, demand, plan, 2)

    assert (await reject(ledger, demand(plan))).retry_after_ms == 1000
    for _ in range(60):
        advance(1000)
        await admit_times(ledger, demand, plan, 1)


async def test_repeated_admission_finds_its_lease_and_charges_nothing(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """A caller whose first reply was lost asks again and gets the same answer."""
    plan = Plan(plan="p", rates=(RATE,), concurrency=Concurrency(limit=1))
    asked = demand(plan, lease_id="mine")

    first = await ledger.admit(asked)
    second = await ledger.admit(asked)

    assert isinstance(first, Admitted)
    assert second == first
    assert await used(ledger, plan) == [1, 1]


async def test_admission_can_be_repeated_after_a_rejection(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A rejection leaves nothing behind under the lease's id."""
    plan = Plan(plan="p", rates=(Rate(of="requests", limit=1, per="second"),))
    await admit_times(ledger, demand, plan, 1)
    asked = demand(plan, lease_id="mine")

    await reject(ledger, asked)
    advance(1000)

    assert isinstance(await ledger.admit(asked), Admitted)


async def test_admission_repeated_after_settlement_is_an_error_and_free(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """A late duplicate takes no place that nobody would give back."""
    plan = Plan(plan="p", rates=(TOKEN_RATE,), concurrency=Concurrency(limit=1))
    asked = demand(plan, 100, lease_id="mine")
    await ledger.admit(asked)
    await ledger.settle("acme", "mine", Usage(1, 40))
    advance(1)

    with pytest.raises(LeaseSettled):
        await ledger.admit(asked)

    assert await used(ledger, plan) == [40, 0]


async def test_lease_id_is_free_again_a_ttl_after_settlement(
    ledger: Ledger, demand: MakeDemand, advance: Advance
) -> None:
    """Settled ids are remembered for as long as a duplicate can be under way."""
    asked = demand(FULL, lease_id="mine")
    await ledger.admit(asked)
    await ledger.settle("acme", "mine", Usage(1, 0))

    advance(ledger.lease_ttl_ms)

    assert isinstance(await ledger.admit(asked), Admitted)


async def test_workspaces_share_nothing(ledger: Ledger, demand: MakeDemand) -> None:
    """The same plan and the same lease id elsewhere are another usage and lease."""
    plan = Plan(plan="p", rates=(RATE,), concurrency=Concurrency(limit=1))

    for workspace in "acme", "globex":
        asked = demand(plan, workspace=workspace, lease_id="mine")
        assert isinstance(await ledger.admit(asked), Admitted)
    await ledger.settle("globex", "mine", Usage(0, 0))

    assert await used(ledger, plan, "acme") == [1, 1]
    assert await used(ledger, plan, "globex") == [0, 0]


async def test_request_that_asks_nothing_of_a_limit_is_not_refused_by_it(
    ledger: Ledger, demand: MakeDemand
) -> None:
    """Token limits, even overdrawn, do not concern calls that use no tokens."""
    plan = Plan(plan="p", rates=(TOKEN_RATE,), quotas=(MONTH,))
    await ledger.admit(demand(plan, 1000, lease_id="big"))
    await ledger.settle("acme", "big", Usage(1, 9000))

    assert isinstance(await ledger.admit(demand(plan, 0)), Admitted)
    assert (await reject(ledger, demand(plan, 1))).reason == "quota"


@pytest.mark.parametrize("reserve", [Usage(-1, 0), Usage(1, -1)], ids=repr)
async def test_negative_reservation_is_an_error(ledger: Ledger, reserve: Usage) -> None:
    """No admission can be used to refund."""
    with pytest.raises(ValueError, match="negative"):
        await ledger.admit(
            Demand(workspace="acme", plan=FULL, lease_id="x", reserve=reserve)
        )


async def test_looking_charges_nothing(ledger: Ledger, demand: MakeDemand) -> None:
    """Inspection under any plan leaves no trace."""
    other = Plan(plan="other", rates=(Rate(of="tokens", limit=7, per="minute"),))
    await ledger.admit(demand(FULL, 100))

    before = await ledger.inspect("acme", FULL)
    (seen,) = await ledger.inspect("acme", other)

    assert (seen.used, seen.capacity) == (100, 7)
    assert await ledger.inspect("acme", FULL) == before


async def test_keys_that_share_their_limits_are_counted_apart(ledger: Ledger) -> None:
    """A default for all keys is each key's own."""
    limits = KeyLimits(quotas=(Quota(of="requests", limit=1, per="day"),))
    plan = Plan(plan="open")

    decisions = [
        await ledger.admit(
            Demand(
                workspace="acme",
                plan=plan,
                lease_id=f"lease-of-{name}",
                reserve=Usage(1, 0),
                key=KeyScope(name, limits),
            )
        )
        for name in ("first", "second")
    ]

    assert [Admitted, Admitted] == [type(decision) for decision in decisions]
