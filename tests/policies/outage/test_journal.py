"""What waits for the store: all of it, in bounded memory."""

from __future__ import annotations

import asyncio

import pytest

from policies.ledger import NOTHING, Demand, Usage
from policies.memory_ledger import MemoryLedger
from policies.outage.journal import BATCH, PLACES_PART, Journal
from policies.outage.running_leases import RunningLease
from policies.outage.settlement import Settlement
from policies.plans import Concurrency, Plan, Quota
from policies.store.errors import StoreUnavailable
from tests.policies.conftest import Clock

PLAN = Plan(plan="p", quotas=(Quota(of="tokens", limit=10_000, per="day"),))
TTL_US = 30_000_000


@pytest.fixture
def ledger_kind() -> str:
    return "memory"


@pytest.fixture
def journal(clock: Clock) -> Journal:
    return Journal(clock, max_entries=3)


def ended(
    clock: Clock,
    number: int,
    workspace: str = "acme",
    *,
    plan: Plan = PLAN,
    is_known: bool = True,
) -> Settlement:
    demand = Demand(
        workspace=workspace, plan=plan, lease_id=f"l{number}", reserve=Usage(1, 500)
    )
    lease = RunningLease(demand, clock())
    if is_known:
        lease.confirm(clock())
    return Settlement.of(lease, Usage(1, 10))


class Recorder:
    """A store that takes settlements, or does not."""

    def __init__(self, outcome: BaseException | None = None) -> None:
        self.outcome = outcome
        self.taken: list[tuple[str, Usage]] = []

    async def __call__(self, settlement: Settlement) -> bool:
        await asyncio.sleep(0)
        self.taken.append((settlement.workspace, settlement.actual))
        if self.outcome is not None:
            raise self.outcome
        return True


async def test_settlements_wait_and_are_sent_once(
    journal: Journal, clock: Clock
) -> None:
    """Depth and age say what waits; afterwards nothing does."""
    journal.put(ended(clock, 1))
    clock.advance(1500)
    journal.put(ended(clock, 2))
    assert (journal.depth, journal.oldest_age_s) == (2, 1.5)
    assert ("acme", "l1") in journal
    await journal.wait()

    sent = Recorder()
    while journal.depth:
        assert await journal.send_batch(sent) == 0

    assert [Usage(1, 10)] * 2 == [usage for _, usage in sent.taken]
    assert (journal.oldest_age_s, journal.lost_total) == (0.0, 0)
    assert ("acme", "l1") not in journal


async def test_same_lease_waits_once(journal: Journal, clock: Clock) -> None:
    """A lease that is ended twice is settled once."""
    journal.put(ended(clock, 1))
    journal.put(ended(clock, 1))

    assert journal.depth == 1


async def test_what_the_store_does_not_take_stays(
    journal: Journal, clock: Clock
) -> None:
    """A failure costs nothing but time."""
    journal.put(ended(clock, 1))

    failing = Recorder(StoreUnavailable("timeout", is_ambiguous=True))
    assert await journal.send_batch(failing) == 1
    assert journal.depth == 1
    assert await journal.send_batch(Recorder()) == 0

    assert (journal.depth, journal.lost_total) == (0, 0)


async def test_what_can_never_be_taken_is_counted_and_gone(
    journal: Journal, clock: Clock
) -> None:
    """A bug of ours does not block what waits behind it."""
    journal.put(ended(clock, 1))

    assert await journal.send_batch(Recorder(ValueError("a bug"))) == 0

    assert (journal.depth, journal.lost_total) == (0, 1)


async def test_sending_cancelled_loses_nothing(journal: Journal, clock: Clock) -> None:
    """A shutdown in the middle of a batch keeps it for the next."""
    journal.put(ended(clock, 1))
    asked = asyncio.Event()

    async def hang(settlement: Settlement) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    sending = asyncio.create_task(journal.send_batch(hang))
    await asked.wait()
    sending.cancel()
    await asyncio.wait([sending])

    assert sending.cancelled()
    assert journal.depth == 1


async def test_workspaces_take_turns(clock: Clock) -> None:
    """One with thousands waiting does not hold up the others."""
    journal = Journal(clock)
    for number in range(200):
        journal.put(ended(clock, number, "busy"))
    journal.put(ended(clock, 0, "quiet"))

    sent = Recorder()
    await journal.send_batch(sent)
    assert len(sent.taken) == BATCH
    await journal.send_batch(sent)

    assert ("quiet", Usage(1, 10)) in sent.taken


async def test_few_places_are_taken_at_once(clock: Clock) -> None:
    """What is made up for hardly keeps out what asks to run now."""
    places = PLACES_PART * 3
    plan = Plan(plan="p", concurrency=Concurrency(limit=places))
    journal = Journal(clock)
    for number in range(20):
        journal.put(ended(clock, number, plan=plan))

    sent = Recorder()
    await journal.send_batch(sent)

    assert len(sent.taken) == 3


async def test_leases_the_store_never_heard_of_are_summed_up(
    journal: Journal, clock: Clock
) -> None:
    """One entry a second, however many requests it makes, and no usage is lost."""
    for number in range(100):
        journal.put(ended(clock, number, is_known=False))
    clock.advance(1000)
    journal.put(ended(clock, 100, is_known=False))
    assert (journal.depth, journal.merged_total, journal.lost_total) == (2, 99, 0)

    memory = MemoryLedger(clock)
    while journal.depth:
        await journal.send_batch(lambda each: each.send(memory, clock(), TTL_US))

    assert [1010] == [state.used for state in await memory.inspect("acme", PLAN)]


async def test_above_the_bound_sums_are_of_an_hour(
    journal: Journal, clock: Clock
) -> None:
    """Memory follows the number of workspaces, not how long the outage lasts."""
    for number in range(100):
        journal.put(ended(clock, number, is_known=False))
        clock.advance(1000)
    assert (journal.depth, journal.merged_total, journal.lost_total) == (4, 96, 0)

    memory = MemoryLedger(clock)
    while journal.depth:
        await journal.send_batch(lambda each: each.send(memory, clock(), TTL_US))

    assert [1000] == [state.used for state in await memory.inspect("acme", PLAN)]


async def test_sums_end_with_their_hour(journal: Journal, clock: Clock) -> None:
    """Every window begins with an hour, so each quota is charged what it was used."""
    for number in range(3):
        journal.put(ended(clock, number))
    clock.travel_to("2026-11-02T23:59:58")
    journal.put(ended(clock, 10, "late", is_known=False))
    clock.advance(1999)
    journal.put(ended(clock, 11, "late", is_known=False))
    clock.advance(1)
    journal.put(ended(clock, 12, "late", is_known=False))

    sent = Recorder()
    while journal.depth:
        await journal.send_batch(sent)

    assert [("late", Usage(2, 20)), ("late", Usage(1, 10))] == [
        taken for taken in sent.taken if taken[0] == "late"
    ]


async def test_what_is_being_sent_does_not_grow(journal: Journal, clock: Clock) -> None:
    """A lease that ends meanwhile is added to another sum."""
    journal.put(ended(clock, 1, is_known=False))
    failing = Recorder(StoreUnavailable("timeout", is_ambiguous=True))
    await journal.send_batch(failing)

    journal.put(ended(clock, 2, is_known=False))

    assert (journal.depth, journal.merged_total) == (2, 0)


async def test_leases_the_store_knows_are_never_summed_up(
    journal: Journal, clock: Clock
) -> None:
    """Each has its reservation there, which only its own settlement corrects."""
    for number in range(6):
        journal.put(ended(clock, number))

    assert (journal.depth, journal.merged_total) == (6, 0)


async def test_only_above_twice_the_bound_something_is_lost(
    journal: Journal, clock: Clock
) -> None:
    """And it is counted."""
    for number in range(7):
        journal.put(ended(clock, number))
    journal.put(ended(clock, 8, "another", is_known=False))
    journal.put(Settlement("acme", "l9", NOTHING))

    assert (journal.depth, journal.lost_total) == (6, 3)


async def test_giving_up_counts_what_is_left(journal: Journal, clock: Clock) -> None:
    """A process that ends without its store says what that cost."""
    for number in range(5):
        journal.put(ended(clock, number, is_known=number == 0))
    assert journal.depth == 2

    assert journal.give_up() == 5
    assert (journal.depth, journal.lost_total, journal.oldest_age_s) == (0, 5, 0.0)
