"""What one replica of several may do alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ledger import LimitState
from policies.outage.shares import (
    capacity_of,
    part_of,
    share_of,
    share_of_key,
    used_after,
    used_of_share,
)
from policies.plans import MAX_LIMIT, Concurrency, KeyLimits, Limit, Plan, Quota, Rate

RATE = Rate(of="requests", limit=60, per="minute", burst=20)
QUOTA = Quota(of="tokens", limit=1000, per="day")
PLAN = Plan(plan="p", rates=(RATE,), quotas=(QUOTA,), concurrency=Concurrency(limit=10))

counts = st.integers(0, MAX_LIMIT)
numbers = st.integers(1, 1000)


def state(limit: Limit, used: int, reset_after_ms: int = 0) -> LimitState:
    return LimitState(
        limit=limit,
        capacity=capacity_of(limit),
        used=used,
        reset_after_ms=reset_after_ms,
    )


def test_every_limit_is_divided() -> None:
    """Rates with their bursts, quotas and places; the rest of the plan stays."""
    share = share_of(PLAN, 3)

    assert share.limits == (
        Rate(of="requests", limit=20, per="minute", burst=6),
        Quota(of="tokens", limit=333, per="day"),
        Concurrency(limit=3),
    )
    assert (share.plan, share.models) == (PLAN.plan, PLAN.models)


def test_limits_of_a_key_are_divided_alike() -> None:
    """A key is held to its share as its workspace is to the plan's."""
    limits = KeyLimits(rates=(RATE,), quotas=(QUOTA,), concurrency=PLAN.concurrency)

    assert share_of_key(limits, 3).limits == share_of(PLAN, 3).limits


def test_same_share_is_the_same_object() -> None:
    """The ledger beneath sees no change of plan where there is none."""
    assert share_of(PLAN, 7) is share_of(PLAN, 7)


def test_alone_is_the_whole_plan() -> None:
    """One replica loses nothing while the store is away."""
    assert share_of(PLAN, 1) == PLAN


def test_shadow_stays_shadow_and_no_limit_stays_none() -> None:
    """Dividing changes numbers, never what is enforced."""
    plan = Plan(plan="p", quotas=(Quota(of="tokens", limit=9, per="day", shadow=True),))

    share = share_of(plan, 2)

    assert (share.quotas[0].shadow, share.concurrency) == (True, None)


@pytest.mark.parametrize(
    ("units", "replicas", "expected"),
    [
        pytest.param(10, 3, 3, id="rounded-down"),
        pytest.param(2, 5, 1, id="at-least-one"),
        pytest.param(0, 5, 0, id="nothing-stays-nothing"),
        pytest.param(-7, 2, -4, id="a-debt-is-shared-too"),
    ],
)
def test_part_of(units: int, replicas: int, expected: int) -> None:
    """Nobody is locked out who has anything, and nobody let in who has nothing."""
    assert part_of(units, replicas) == expected


@given(units=counts, replicas=numbers)
def test_shares_together_are_the_limit_or_one_each(units: int, replicas: int) -> None:
    """Together they exceed a limit only where it is smaller than their number."""
    assert replicas * part_of(units, replicas) <= max(units, replicas * (units > 0))


@pytest.mark.parametrize(
    ("known", "more", "age_ms", "expected"),
    [
        pytest.param(state(RATE, 20), 0, 0, 20, id="rate-now"),
        pytest.param(state(RATE, 20), 0, 5_999, 15, id="rate-refills"),
        pytest.param(state(RATE, 20), 0, 60_000, 0, id="rate-never-below-full"),
        pytest.param(state(RATE, 20), -4, 1_000, 15, id="rate-refunded"),
        pytest.param(state(QUOTA, 900, 5_000), 0, 4_999, 900, id="quota-stays"),
        pytest.param(state(QUOTA, 900, 5_000), 7, 5_000, 0, id="quota-next-window"),
        pytest.param(state(QUOTA, 900, 5_000), 150, 0, 1050, id="quota-topped-up"),
        pytest.param(state(QUOTA, 9, 5_000), -10, 0, 0, id="quota-never-negative"),
        pytest.param(state(Concurrency(limit=3), 3), 0, 0, 0, id="places-are-leases"),
    ],
)
def test_what_is_used_changes_with_time(
    known: LimitState, more: int, age_ms: int, expected: int
) -> None:
    """Buckets refill and windows end although nobody can be asked."""
    assert used_after(known, more, age_ms) == expected


@pytest.mark.parametrize(
    ("used", "replicas", "left"),
    [
        pytest.param(0, 4, 250, id="untouched"),
        pytest.param(600, 4, 100, id="its-part-of-the-rest"),
        pytest.param(998, 4, 1, id="at-least-one-of-a-rest"),
        pytest.param(1000, 4, 0, id="spent-stays-spent"),
        pytest.param(1400, 4, -100, id="overdrawn-by-its-part"),
        pytest.param(600, 1, 400, id="alone"),
    ],
)
def test_share_starts_from_what_was_used(used: int, replicas: int, left: int) -> None:
    """A spent month does not open again because the store is gone."""
    assert part_of(1000, replicas) - used_of_share(QUOTA, used, replicas) == left


@given(limit=counts, used=counts, replicas=numbers)
def test_shares_leave_no_more_than_there_was(
    limit: int, used: int, replicas: int
) -> None:
    """Together they admit what was left, or one each."""
    quota = Quota(of="tokens", limit=limit, per="day")

    left = part_of(limit, replicas) - used_of_share(quota, used, replicas)

    assert replicas * left <= max(limit - used, replicas * (limit > used))
