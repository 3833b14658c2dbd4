"""
Ledgers against a model that is too simple to be wrong, and against one another.

Any history, however odd, must get the same decisions from all of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, ClassVar, Final, TypeVar

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from policies.ledger import (
    Admitted,
    Decision,
    Demand,
    KeyScope,
    LeaseSettled,
    Ledger,
    LimitState,
    Usage,
)
from policies.memory_ledger import LEASE_TTL_MS, MemoryLedger
from policies.plans import Concurrency, KeyLimits, Plan, Quota, Rate
from policies.redis_ledger import RedisLedger
from policies.store.store import open_store
from tests.policies.ledger_model import HOUR_US, Model, limits_of
from tests.servers.clock import FakeClock
from tests.servers.redis_server import RedisServer

T = TypeVar("T")

START_US: Final = 1_793_600_000_000_000

# `make prove-ledger` runs a hundred times as many.
EXAMPLES: Final = int(os.environ.get("LLMTUNE_LEDGER_EXAMPLES", "60"))

PLANS = [
    Plan(
        plan="small",
        rates=(
            Rate(of="requests", limit=7, per="minute"),
            Rate(of="tokens", limit=500, per="minute", burst=300),
        ),
        quotas=(
            Quota(of="requests", limit=12, per="hour"),
            Quota(of="tokens", limit=3000, per="day"),
        ),
        concurrency=Concurrency(limit=3),
    ),
    Plan(
        plan="large",
        rates=(Rate(of="tokens", limit=1100, per="minute"),),
        quotas=(
            Quota(of="tokens", limit=9000, per="day"),
            Quota(of="tokens", limit=20_000, per="month"),
        ),
        concurrency=Concurrency(limit=5, shadow=True),
    ),
    Plan(
        plan="shadow",
        rates=(Rate(of="requests", limit=2, per="minute", shadow=True),),
        quotas=(Quota(of="tokens", limit=500, per="hour", shadow=True),),
        concurrency=Concurrency(limit=2),
    ),
]
KEYS = [
    None,
    KeyScope(
        "a1",
        KeyLimits(
            rates=(Rate(of="tokens", limit=110, per="minute"),),
            concurrency=Concurrency(limit=1),
        ),
    ),
    KeyScope(
        "b2",
        KeyLimits(
            quotas=(Quota(of="requests", limit=4, per="day"),),
            concurrency=Concurrency(limit=1, shadow=True),
        ),
    ),
]
USAGES = st.builds(Usage, st.integers(0, 3), st.integers(0, 10_000))
OPEN = Plan(
    plan="open",
    rates=(
        Rate(of="requests", limit=10**6, per="hour"),
        Rate(of="tokens", limit=10**9 + 7, per="second"),
    ),
    quotas=(
        Quota(of="requests", limit=10**6, per="day"),
        Quota(of="tokens", limit=10**9, per="month"),
    ),
    concurrency=Concurrency(limit=10**6),
)


@given(requests=st.lists(st.tuples(USAGES, USAGES, st.integers()), max_size=30))
async def test_after_the_last_settlement_usage_is_what_was_used(
    requests: list[tuple[Usage, Usage, int]],
) -> None:
    """No unit is lost or invented, whatever was reserved and in whatever order."""
    ledger = MemoryLedger(lambda: START_US)
    for number, (reserve, _, _) in enumerate(requests):
        demand = Demand(
            workspace="acme", plan=OPEN, lease_id=str(number), reserve=reserve
        )
        assert isinstance(await ledger.admit(demand), Admitted)

    for number, _ in sorted(enumerate(requests), key=lambda item: item[1][2]):
        assert await ledger.settle("acme", str(number), requests[number][1])

    used_requests = sum(actual.requests for _, actual, _ in requests)
    used_tokens = sum(actual.tokens for _, actual, _ in requests)
    states = await ledger.inspect("acme", OPEN)
    assert [state.used for state in states] == [used_requests, used_tokens] * 2 + [0]


class LedgersAgainstModel(RuleBasedStateMachine):
    """One workspace lives through a random history in all of them."""

    leases = Bundle("leases")
    time: ClassVar[FakeClock]
    redis: ClassVar[RedisServer]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model(LEASE_TTL_MS, START_US)
        self.workspace = "acme"
        self.clock, self.server = type(self).time, type(self).redis
        self.clock.now_us = START_US
        self.server.command("FLUSHALL")
        store = open_store(
            self.server.url, timeout_s=5, connect_timeout_s=5, client_name="model"
        )
        self.ledgers: list[Ledger] = [
            MemoryLedger(lambda: self.model.now_us),
            RedisLedger(store),
        ]
        self.numbers = iter(range(10**9))
        self.plan = PLANS[0]
        self.key: KeyScope | None = None

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def in_all(self, call: str, *args: Any) -> Any:
        """The same call to every ledger, which must give the same answer."""
        answers = [self.run(self.answer(each, call, *args)) for each in self.ledgers]
        for answer in answers[1:]:
            assert answer == answers[0]
        return answers[0]

    async def answer(self, ledger: Ledger, call: str, *args: Any) -> Any:
        try:
            return await getattr(ledger, call)(*args)
        except LeaseSettled:
            return LeaseSettled

    def demand(self, lease_id: str, reserve: Usage, takes_place: bool = True) -> Demand:
        return Demand(
            workspace=self.workspace,
            plan=self.plan,
            lease_id=lease_id,
            reserve=reserve,
            key=self.key,
            takes_place=takes_place,
        )

    def new_lease_id(self) -> str:
        return f"lease-{next(self.numbers)}"

    def ask(self, lease_id: str, reserve: Usage, takes_place: bool = True) -> Decision:
        demand = self.demand(lease_id, reserve, takes_place)
        decision: Decision = self.in_all("admit", demand)
        is_admitted = self.model.admit(demand)

        assert isinstance(decision, Admitted) is is_admitted
        if isinstance(decision, Admitted):
            assert list(decision.shadowed) == self.model.shadowed(demand)
        self.compare(decision.states)
        return decision

    def compare(self, states: tuple[LimitState, ...]) -> None:
        used = [state.used for state in states]
        expected = [self.model.used(x) for x in limits_of(self.plan, self.key)]
        assert used == expected

    @rule(
        target=leases,
        tokens=st.one_of(st.integers(0, 120), st.integers(0, 4000)),
        requests=st.integers(0, 3),
        takes_place=st.booleans(),
    )
    def admit(self, tokens: int, requests: int, takes_place: bool) -> Any:
        lease_id = self.new_lease_id()
        decision = self.ask(lease_id, Usage(requests, tokens), takes_place)
        return lease_id if isinstance(decision, Admitted) else multiple()

    @rule(lease_id=leases)
    def admit_again(self, lease_id: str) -> None:
        if self.model.is_barred(lease_id):
            demand = self.demand(lease_id, Usage(1, 1))
            assert self.in_all("admit", demand) is LeaseSettled
            self.model.follow(demand)
        else:
            self.ask(lease_id, Usage(1, 1))

    @rule(target=leases, tokens=st.integers(0, 4000), takes_place=st.booleans())
    def adopt(self, tokens: int, takes_place: bool) -> str:
        lease_id = self.new_lease_id()
        self.adopt_again(lease_id, tokens, takes_place)
        return lease_id

    @rule(lease_id=leases, tokens=st.integers(0, 4000), takes_place=st.booleans())
    def adopt_again(self, lease_id: str, tokens: int, takes_place: bool) -> None:
        demand = self.demand(lease_id, Usage(1, tokens), takes_place)
        assert self.in_all("adopt", demand) is self.model.adopt(demand)

    @rule(tokens=st.integers(0, 4000), requests=st.integers(0, 3))
    def preview(self, tokens: int, requests: int) -> None:
        demand = self.demand(self.new_lease_id(), Usage(requests, tokens))
        decision = self.in_all("preview", demand)
        refusing = self.model.refusing(demand)

        is_refused = any(not limit.shadow for _, limit in refusing)
        assert isinstance(decision, Admitted) is not is_refused
        self.compare(decision.states)

    @rule(tokens=st.integers(1, 400))
    def wait_as_told_and_be_admitted(self, tokens: int) -> None:
        reserve = Usage(1, tokens)
        decision = self.ask(self.new_lease_id(), reserve)
        while not isinstance(decision, Admitted) and decision.retry_after_ms:
            index = decision.states.index(decision.binding)
            binding = limits_of(self.plan, self.key)[index]
            held = set(self.model.leases)
            self.advance_us((decision.retry_after_ms - 1) * 1000)
            had_room = self.model.has_room(binding, reserve)
            self.advance_us(1000)
            # A lease that was abandoned meanwhile may have changed what there is.
            if held == set(self.model.leases):
                assert not had_room
                assert self.model.has_room(binding, reserve)
            decision = self.ask(self.new_lease_id(), reserve)

    @rule(lease_id=leases, tokens=st.integers(0, 400))
    def renew(self, lease_id: str, tokens: int) -> None:
        renewed = self.in_all("renew", self.workspace, lease_id, tokens)

        assert renewed is self.model.renew(lease_id, tokens)

    @rule(
        lease_id=consumes(leases),
        tokens=st.integers(0, 600),
        requests=st.integers(0, 2),
    )
    def settle(self, lease_id: str, tokens: int, requests: int) -> None:
        actual = Usage(requests, tokens)

        settled = self.in_all("settle", self.workspace, lease_id, actual)

        assert settled is self.model.settle(lease_id, actual)
        assert not self.in_all("settle", self.workspace, lease_id, actual)

    @rule(target=leases)
    def settle_before_it_is_admitted(self) -> str:
        lease_id = self.new_lease_id()
        assert not self.in_all("settle", self.workspace, lease_id, Usage(1, 10))
        assert not self.model.settle(lease_id, Usage(1, 10))
        return lease_id

    @rule(us=st.one_of(st.integers(1, 2_000_000), st.integers(1, 4_000_000_000)))
    def let_time_pass(self, us: int) -> None:
        self.advance_us(us)

    def advance_us(self, us: int) -> None:
        self.model.advance(us)
        self.clock.now_us = self.model.now_us

    @rule(plan=st.sampled_from(PLANS), key=st.sampled_from(KEYS))
    def change_plan(self, plan: Plan, key: KeyScope | None) -> None:
        self.plan, self.key = plan, key

    @invariant()
    def same_usage(self) -> None:
        states = self.in_all("inspect", self.workspace, self.plan, self.key)
        self.compare(states)

    def teardown(self) -> None:
        try:
            for lease_id, lease in list(self.model.leases.items()):
                self.settle(lease_id, lease.reserve.tokens // 3, lease.reserve.requests)
            self.same_usage()
            self.until_every_key_is_gone()
        finally:
            for ledger in self.ledgers:
                self.run(ledger.aclose())
            self.runner.close()

    def until_every_key_is_gone(self) -> None:
        """Nothing is kept for ever: the longest window here is a month."""
        self.clock.now_us += 32 * 24 * HOUR_US
        keys = self.server.command("KEYS", "*")
        assert [key for key in keys if self.server.command("EXISTS", key)] == []


@pytest.mark.timeout(60 + EXAMPLES)
def test_ledgers_agree_with_the_model(
    session_clock: FakeClock, session_timed_redis: RedisServer
) -> None:
    """Memory and Redis give every decision of any history alike, and rightly."""
    LedgersAgainstModel.time = session_clock
    LedgersAgainstModel.redis = session_timed_redis
    run_state_machine_as_test(
        LedgersAgainstModel,
        settings=settings(
            deadline=None,
            max_examples=EXAMPLES,
            stateful_step_count=40,
            # Shrinking a history of forty steps takes minutes; its seed is printed.
            phases=[Phase.explicit, Phase.generate],
        ),
    )
