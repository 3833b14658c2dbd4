"""What the memory ledger remembers, for how long, and what it costs."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest

from policies.ledger import NOTHING, Admitted, Demand, KeyScope, Usage
from policies.memory_ledger import CHORES_PER_ADMISSION, LeaseView, MemoryLedger
from policies.plan_files import load_plan_book
from policies.plans import Concurrency, KeyLimits, Plan, Quota, Rate
from policies.workspace_usage import WorkspaceUsage, charge

MINUTE_MS = 60_000
DAY_MS = 86_400_000
HOUR_US = 3_600_000_000
PLAN = Plan(plan="p", rates=(Rate(of="tokens", limit=1000, per="minute"),))

MakeDemand = Callable[..., Demand]
Advance = Callable[[int], None]
T = TypeVar("T")


def finish(call: Coroutine[Any, Any, T]) -> T:
    """Run a call that never waits, without the cost of an event loop."""
    try:
        call.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # the coroutine's own result
    raise AssertionError("the memory ledger must not await")


@pytest.fixture
def ledger_kind() -> str:
    return "memory"


@pytest.fixture
def memory(clock: Callable[[], int]) -> MemoryLedger:
    return MemoryLedger(clock)


async def run_request(
    memory: MemoryLedger, demand: Demand, actual: Usage = NOTHING
) -> None:
    assert isinstance(await memory.admit(demand), Admitted)
    assert await memory.settle(demand.workspace, demand.lease_id, actual)


async def test_workspace_is_forgotten_once_its_buckets_are_full(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """Nobody touches it again, and it is gone all the same."""
    await run_request(memory, demand(PLAN, 1000), Usage(1, 1000))

    advance(MINUTE_MS - 1)
    memory.sweep()
    assert len(memory.workspaces) == 1

    advance(1)
    memory.sweep()
    assert len(memory.workspaces) == 0


async def test_workspace_is_kept_while_a_window_counts_or_a_lease_is_held(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """Forgetting never gives a spent budget or a place back."""
    quota = Plan(plan="q", quotas=(Quota(of="tokens", limit=9, per="day"),))
    places = Plan(plan="c", concurrency=Concurrency(limit=1))
    await run_request(memory, demand(quota, 5, workspace="quota"), Usage(1, 5))
    await memory.admit(demand(places, workspace="lease", lease_id="long"))

    for _ in range(10):
        advance(20_000)
        memory.sweep()
        assert await memory.renew("lease", "long", 1)
    assert set(memory.workspaces) == {"quota", "lease"}

    await memory.settle("lease", "long", NOTHING)
    advance(DAY_MS)
    memory.sweep()
    assert memory.workspaces == ()


async def test_unused_quota_does_not_keep_a_workspace(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """A guessed key whose request was refunded is not remembered for a month."""
    plan = Plan(plan="q", quotas=(Quota(of="tokens", limit=9, per="month"),))
    await run_request(memory, demand(plan, 5), NOTHING)

    advance(memory.lease_ttl_ms)
    memory.sweep()

    assert memory.workspaces == ()


async def test_abandoned_leases_are_counted_and_swept_without_a_touch(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """Traffic of other workspaces is enough to reclaim a lease."""
    await memory.admit(demand(PLAN, 10, workspace="gone"))
    await memory.admit(demand(PLAN, 10, workspace="alive", lease_id="mine"))
    advance(memory.lease_ttl_ms - 1)
    await memory.renew("alive", "mine", 5)
    assert memory.abandoned_total == 0

    advance(1)
    await memory.admit(demand(PLAN, workspace="other"))

    assert memory.abandoned_total == 1
    assert memory.held("gone") == ()


async def test_held_leases_can_be_seen(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """An operator can tell who holds a workspace's places, without ending one."""
    await memory.admit(demand(PLAN, 100, lease_id="a"))
    await memory.admit(demand(PLAN, 1, workspace="other"))
    advance(10_000)
    await memory.renew("acme", "a", 40)
    advance(1)

    assert memory.held("acme") == (
        LeaseView(
            lease_id="a",
            reserve=Usage(1, 100),
            progress_tokens=40,
            expires_after_ms=memory.lease_ttl_ms - 1,
        ),
    )
    advance(memory.lease_ttl_ms)
    assert memory.held("acme") == ()


async def test_settled_ids_are_bounded(
    clock: Callable[[], int], demand: MakeDemand
) -> None:
    """However fast requests come, the oldest settled id makes room."""
    memory = MemoryLedger(clock, max_settled_ids=2)
    for lease_id in "abc":
        await run_request(memory, demand(PLAN, lease_id=lease_id))

    assert isinstance(await memory.admit(demand(PLAN, lease_id="a")), Admitted)


async def test_closing_needs_nothing(memory: MemoryLedger) -> None:
    """The process is all there is."""
    await memory.aclose()


def use_and_leave(memory: MemoryLedger, demand: MakeDemand, workspaces: int) -> None:
    for number in range(workspaces):
        asked = demand(PLAN, 100, workspace=f"w{number}")
        finish(memory.admit(asked))
        finish(memory.settle(asked.workspace, asked.lease_id, Usage(1, 50)))


def test_hundred_thousand_workspaces_come_and_go(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """No single call pays for clearing them all away, and in the end all are gone."""
    use_and_leave(memory, demand, 100_000)
    advance(DAY_MS)

    finish(memory.admit(demand(PLAN, workspace="one", lease_id="one")))
    assert len(memory.workspaces) == 100_001 - CHORES_PER_ADMISSION
    for _ in range(10_000):
        finish(memory.admit(demand(PLAN, workspace="one", lease_id="one")))
    assert len(memory.workspaces) == 100_001 - CHORES_PER_ADMISSION * 10_001

    memory.sweep(max_chores=100_000)
    assert memory.workspaces == ("one",)


def test_idle_workspaces_cost_no_memory(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """What a workspace needed is given back, down to the last index over it."""
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    use_and_leave(memory, demand, 3000)
    busy, _ = tracemalloc.get_traced_memory()
    advance(DAY_MS)
    memory.sweep(max_chores=10_000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # Emptied dictionaries keep their tables until they are next filled.
    assert after - before < (busy - before) / 5


def test_admission_and_settlement_are_fast(
    memory: MemoryLedger, demand: MakeDemand
) -> None:
    """Five limits cost tens of microseconds, however many workspaces there are."""
    plan = load_plan_book(None).plan_for("growth", "w")
    assert plan is not None
    for number in range(10_000):
        finish(memory.admit(demand(plan, 1, workspace=f"w{number}")))
    asked = [demand(plan, 1000) for _ in range(80)]

    started = time.perf_counter()
    for each in asked:
        finish(memory.admit(each))
        finish(memory.settle("acme", each.lease_id, Usage(1, 900)))
    spent_us = (time.perf_counter() - started) / len(asked) * 1e6

    # 12 us on an idle core; a linear walk over workspaces would take milliseconds.
    assert spent_us < 300


def test_keys_that_came_and_went_do_not_add_up() -> None:
    """One that still holds a place, or whose window still runs, stays."""
    hourly = KeyLimits(quotas=(Quota(of="tokens", limit=1000, per="hour"),))
    monthly = KeyLimits(quotas=(Quota(of="tokens", limit=1000, per="month"),))
    usage, now_us = WorkspaceUsage(), 0
    held = usage.follow(PLAN, KeyScope("held", hourly), now_us)
    lease = charge(Usage(1, 1), held, [], now_us, now_us)
    spent = usage.follow(PLAN, KeyScope("spent", monthly), now_us)
    charge(Usage(1, 1), spent, [], now_us, now_us).take_places(-1)

    for number in range(60):
        now_us += HOUR_US
        came = usage.follow(PLAN, KeyScope(str(number), hourly), now_us)
        charge(Usage(1, 1), came, [], now_us, now_us).take_places(-1)

    assert usage.keys < 12
    lease.take_places(-1)
    again = usage.follow(PLAN, KeyScope("spent", monthly), now_us)
    assert [0, 1] == [usage.held, again.slots[-1].state(now_us).used]


async def test_a_look_beyond_the_window_leaves_it_as_it_was(
    memory: MemoryLedger, demand: MakeDemand, advance: Advance
) -> None:
    """Not even a clock that steps back afterwards opens the window again."""
    plan = Plan(plan="daily", quotas=(Quota(of="requests", limit=1, per="day"),))
    await run_request(memory, demand(plan), Usage(1, 0))

    advance(DAY_MS)
    await memory.inspect("acme", plan)
    advance(-DAY_MS)

    assert [1] == [state.used for state in await memory.inspect("acme", plan)]
