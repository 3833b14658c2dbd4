"""A settlement arrives exactly once, whatever is lost on its way."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.ledger import NOTHING, Demand, Usage
from policies.memory_ledger import MemoryLedger
from policies.outage.running_leases import RunningLease
from policies.outage.settlement import Settlement
from policies.plans import Concurrency, Plan, Quota
from policies.store.errors import StoreUnavailable
from tests.policies.conftest import Clock
from tests.policies.outage.lossy_ledger import Fate, LossyLedger

PLAN = Plan(
    plan="p",
    quotas=(Quota(of="tokens", limit=10_000, per="month"),),
    concurrency=Concurrency(limit=5),
)
TTL_US = 30_000_000
USED = Usage(1, 70)

fates = st.lists(st.sampled_from(["ok", "refused", "reply lost", "lost"]), max_size=8)


@pytest.fixture
def ledger_kind() -> str:
    return "memory"


def lease_of(clock: Clock, tokens: int = 500) -> RunningLease:
    demand = Demand(
        workspace="acme", plan=PLAN, lease_id="lease", reserve=Usage(1, tokens)
    )
    return RunningLease(demand, clock())


async def deliver(
    settlement: Settlement, ledger: LossyLedger, clock: Clock, pause_ms: int = 100
) -> bool:
    """Send until it arrives, as the journal does."""
    while True:
        try:
            return await settlement.send(ledger, clock(), TTL_US)
        except StoreUnavailable:
            clock.advance(pause_ms)


async def standing(ledger: LossyLedger) -> list[int]:
    return [state.used for state in await ledger.memory.inspect("acme", PLAN)]


@given(fates=fates, is_held=st.booleans())
async def test_known_lease_is_charged_exactly_once(
    fates: list[Fate], is_held: bool
) -> None:
    """Whatever was lost, and whether the store still holds it or lost its data."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock), fates)
    lease = lease_of(clock)
    lease.confirm(clock())
    if is_held:
        await ledger.memory.admit(lease.demand)

    await deliver(Settlement.of(lease, USED), ledger, clock)

    # A lease the store forgot, and of which no reply says so, may be lost: never twice.
    is_sure = is_held or not {"lost", "reply lost"} & set(fates)
    assert await standing(ledger) in ([[70, 0]] if is_sure else [[70, 0], [0, 0]])


@given(fates=fates, was_asked=st.booleans(), was_held=st.booleans())
async def test_lease_of_a_share_is_charged_exactly_once(
    fates: list[Fate], was_asked: bool, was_held: bool
) -> None:
    """Whether the store never heard of it, or its admission's reply was lost."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock), fates)
    lease = lease_of(clock)
    if was_asked:
        lease.confirmed_us = clock()
        if was_held:
            await ledger.memory.admit(lease.demand)

    await deliver(Settlement.of(lease, USED), ledger, clock)

    assert await standing(ledger) == [70, 0]


@given(fates=fates, was_held=st.booleans())
async def test_admission_taken_back_leaves_nothing(
    fates: list[Fate], was_held: bool
) -> None:
    """Nobody runs, so nothing is charged and no place is taken, early or late."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock), fates)
    if was_held:
        await ledger.memory.admit(lease_of(clock).demand)

    await deliver(Settlement("acme", "lease", NOTHING), ledger, clock)

    assert await standing(ledger) == [0, 0]


@given(fates=fates, pause_s=st.sampled_from([1, 29, 31, 600, 3500, 4000]))
@example(fates=["refused"] * 5 + ["lost", "refused"], pause_s=600)
async def test_long_outage_never_charges_twice(fates: list[Fate], pause_s: int) -> None:
    """Where the store forgot what it was told, a charge may be lost, not doubled."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock), fates)
    lease = lease_of(clock)
    await ledger.memory.admit(lease.demand)
    lease.confirm(clock())

    await deliver(Settlement.of(lease, USED), ledger, clock, pause_s * 1000)

    # 500: taken for dead, an hour ago, at its reservation. That presumption stands.
    assert await standing(ledger) in ([70, 0], [500, 0])


async def test_first_try_of_a_known_lease_is_one_call() -> None:
    """A store that works is not asked twice."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock))
    lease = lease_of(clock)
    await ledger.memory.admit(lease.demand)
    lease.confirm(clock())

    assert await deliver(Settlement.of(lease, USED), ledger, clock)

    assert ledger.calls == ["settle"]


async def test_lease_the_store_lost_is_charged_under_a_new_id() -> None:
    """A master that failed over without its last writes is made up for."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock))
    lease = lease_of(clock)
    lease.confirm(clock())

    assert await deliver(Settlement.of(lease, USED), ledger, clock)

    assert ledger.calls == ["settle", "adopt", "settle"]
    assert await standing(ledger) == [70, 0]


async def test_lease_settled_elsewhere_is_not_charged_again() -> None:
    """Of a lease it knows nothing about, it believes the store."""
    clock = Clock()
    ledger = LossyLedger(MemoryLedger(clock))

    assert not await deliver(Settlement("acme", "lease", USED), ledger, clock)

    assert ledger.calls == ["settle"]
