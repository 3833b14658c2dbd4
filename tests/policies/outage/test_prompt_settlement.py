"""A settlement nobody waits for ends as one that is awaited, whatever is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ledger import NOTHING, Admitted, Demand, Ledger, Usage
from policies.memory_ledger import MemoryLedger
from policies.outage.guarded_ledger import GuardedLedger
from tests.policies.conftest import Clock
from tests.policies.outage.lossy_ledger import Fate
from tests.policies.outage.one_of_four import (
    PLACES,
    TOKENS,
    OneOfFour,
    one_of_four,
    plan_of,
)

MakeDemand = Callable[..., Demand]

PLAN = plan_of(TOKENS, PLACES)
USED = Usage(1, 30)


async def settled_soon(ledger: Ledger, lease_id: str, actual: Usage = USED) -> bool:
    begun = ledger.settle_soon("acme", lease_id, actual)
    assert begun is not None
    return await begun


async def standing(replica: OneOfFour) -> list[int]:
    return [s.used for s in await replica.shared.memory.inspect("acme", PLAN)]


@pytest.mark.parametrize("fate", ["refused", "lost", "reply lost"])
async def test_settlement_without_an_answer_is_in_the_journal(
    clock: Clock, demand: MakeDemand, fate: Fate
) -> None:
    """It is True, for it will be: the store is told until it has it, and once."""
    async with one_of_four(clock, ["ok", fate]) as replica:
        ledger, asked = replica.ledger, demand(PLAN, 200)
        await ledger.admit(asked)

        assert await settled_soon(ledger, asked.lease_id)

        assert ("acme", asked.lease_id) in ledger.journal
        assert sum(ledger.health.errors.values()) == 1
        await ledger.journal.send_batch(ledger.courier.send)
        assert [30, 0] == await standing(replica)


@pytest.mark.parametrize(
    ("actual", "expected"), [(USED, [30, 0]), (NOTHING, [0, 0])], ids=["used", "unused"]
)
async def test_lease_that_the_store_lost_is_charged_all_the_same(
    replica: OneOfFour, ledger: GuardedLedger, demand: MakeDemand, clock: Clock,
    actual: Usage, expected: list[int],
) -> None:  # fmt: skip
    """Where it used something, by an id that is not barred."""
    asked = demand(PLAN, 200)
    await ledger.admit(asked)
    replica.shared.memory = MemoryLedger(clock)

    assert await settled_soon(ledger, asked.lease_id, actual) is (actual == USED)

    assert expected == await standing(replica)


async def test_what_a_share_has_taken_in_is_given_back_to_it(
    replica: OneOfFour, ledger: GuardedLedger, demand: MakeDemand
) -> None:
    """With the store there again, the share's place is as free as the plan's."""
    exact, alone = demand(PLAN, 1), demand(PLAN, 1)
    await ledger.admit(exact)
    replica.line.is_cut = True
    assert isinstance(await ledger.admit(alone), Admitted)
    replica.line.is_cut = False

    assert await settled_soon(ledger, exact.lease_id)

    replica.cut()
    assert isinstance(await ledger.admit(demand(PLAN, 1)), Admitted)


async def test_settlement_goes_on_when_nobody_wants_its_answer(
    replica: OneOfFour, ledger: GuardedLedger, demand: MakeDemand
) -> None:
    """Whoever cancels it has only left earlier."""
    asked = demand(PLAN, 200)
    await ledger.admit(asked)
    begun = ledger.settle_soon("acme", asked.lease_id, USED)
    assert begun is not None

    begun.cancel()
    # The shared ledger of this test answers a tick later.
    await asyncio.sleep(0)

    assert [30, 0] == await standing(replica)


async def test_bug_is_told_to_whoever_looks(
    replica: OneOfFour, ledger: GuardedLedger, demand: MakeDemand
) -> None:
    """What is no failure of the store is not tried again for ever."""
    asked = demand(PLAN, 200)
    await ledger.admit(asked)

    with pytest.raises(TypeError):
        await settled_soon(ledger, asked.lease_id, Usage(1, None))  # type: ignore[arg-type]

    assert ledger.journal.depth == 0


async def outcome(
    fates: list[Fate], settle: Callable[[Ledger, str], object]
) -> tuple[object, ...]:
    """What is left of two requests, settled in this way, before and after a batch."""
    clock = Clock()
    left: list[object] = []
    async with one_of_four(clock, fates) as replica:
        ledger = replica.ledger
        for number in range(2):
            asked = Demand(
                workspace="acme", plan=PLAN, lease_id=str(number), reserve=Usage(1, 100)
            )
            await ledger.admit(asked)
            begun = settle(ledger, asked.lease_id)
            assert isinstance(begun, asyncio.Future)
            left.append(await begun)
        for _ in range(2):
            left += [await standing(replica), ledger.journal.depth, ledger.status()]
            left.append(dict(ledger.health.errors))
            await ledger.journal.send_batch(ledger.courier.send)
        return (*left, len(replica.shared.calls))


@given(st.lists(st.sampled_from(["ok", "refused", "reply lost", "lost"]), max_size=9))
async def test_settling_soon_leaves_what_settling_leaves(fates: list[Fate]) -> None:
    """In the store, in the journal and in what is known of the store."""

    def soon(ledger: Ledger, lease_id: str) -> object:
        return ledger.settle_soon("acme", lease_id, USED)

    def waited_for(ledger: Ledger, lease_id: str) -> object:
        return asyncio.ensure_future(ledger.settle("acme", lease_id, USED))

    assert await outcome(fates, waited_for) == await outcome(fates, soon)
