"""
The ledger against a model that is too simple to be wrong.

The model keeps lists of what was charged and fractions of what refilled, and works
every answer out anew. Any history, however odd, must get the same decisions from both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from fractions import Fraction
from math import gcd
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from policies.ledger import Admitted, Decision, Demand, Ledger, LimitState, Usage
from policies.memory_ledger import MemoryLedger
from policies.plans import Concurrency, Plan, Quota, Rate

T = TypeVar("T")
Key = tuple[str, str, str]

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
        quotas=(Quota(of="tokens", limit=9000, per="day"),),
        concurrency=Concurrency(limit=5, shadow=True),
    ),
    Plan(
        plan="shadow",
        rates=(Rate(of="requests", limit=2, per="minute", shadow=True),),
        quotas=(Quota(of="tokens", limit=500, per="hour", shadow=True),),
        concurrency=Concurrency(limit=2),
    ),
]


class ModelLease:
    """A lease, with the key and period of everything that was charged for it."""

    def __init__(self, reserve: Usage, end_us: int) -> None:
        self.reserve = reserve
        self.end_us = end_us
        self.progress = 0
        self.charged: list[Key] = []
        self.shadowed: list[object] = []


class Model:
    """One workspace, counted the slow way, and the time it lives in."""

    def __init__(self) -> None:
        self.now_us = 1_793_600_000_000_000
        self.rates: dict[Key, Fraction] = {}
        self.rated_by: dict[Key, Rate] = {}
        self.quotas: dict[Key, int] = {}
        self.leases: dict[str, ModelLease] = {}

    def advance(self, ms: int) -> None:
        # Abandonment happens at its own instant, so time moves from one to the next.
        end_us = self.now_us + ms * 1000
        while due := [k for k, v in self.leases.items() if v.end_us <= end_us]:
            first = min(due, key=lambda lease_id: self.leases[lease_id].end_us)
            self._move_to(max(self.now_us, self.leases[first].end_us))
            lease = self.leases[first]
            tokens = lease.progress or lease.reserve.tokens
            self.settle(first, Usage(lease.reserve.requests, tokens))
        self._move_to(end_us)

    def _move_to(self, now_us: int) -> None:
        for key, missing in self.rates.items():
            rate = self.rated_by[key]
            passed_us = now_us - self.now_us
            refill = Fraction(rate.limit * passed_us, rate.period_s * 1_000_000)
            self.rates[key] = max(Fraction(0), missing - refill)
        self.now_us = now_us

    def admit(self, demand: Demand, ttl_ms: int) -> tuple[bool, list[object]]:
        plan = demand.plan
        for rate in plan.rates:
            self.change_rate(rate)
        if demand.lease_id in self.leases:
            lease = self.leases[demand.lease_id]
        else:
            lease = ModelLease(demand.reserve, 0)
            refused = [x for x in plan.limits if not self.has_room(x, demand.reserve)]
            if any(not limit.shadow for limit in refused):
                return False, []
            lease.shadowed = list(refused)
            for limit in plan.limits:
                if limit not in refused and not isinstance(limit, Concurrency):
                    self.charge(limit, lease)
            self.leases[demand.lease_id] = lease
        self.extend(demand.lease_id, ttl_ms)
        return True, lease.shadowed

    def change_rate(self, rate: Rate) -> None:
        """A new rate has another smallest part of a unit, to which it rounds up."""
        key = rate_key(rate)
        if self.rated_by.get(key, rate) != rate:
            period_us = rate.period_s * 1_000_000
            parts = period_us // gcd(rate.limit, period_us)
            self.rates[key] = Fraction(-(-self.rates.get(key, 0) * parts // 1), parts)
        self.rated_by[key] = rate

    def extend(self, lease_id: str, ttl_ms: int) -> None:
        # Put last: of leases that end at once, the one extended first ends first.
        lease = self.leases.pop(lease_id)
        lease.end_us = self.now_us + ttl_ms * 1000
        self.leases[lease_id] = lease

    def has_room(self, limit: object, reserve: Usage) -> bool:
        if isinstance(limit, Concurrency):
            return self.held(limit) < limit.limit
        assert isinstance(limit, Rate | Quota)
        units = units_of(limit.of, reserve)
        if isinstance(limit, Rate):
            missing = self.rates.get(rate_key(limit), Fraction(0))
            return units == 0 or missing + units <= limit.capacity
        used = self.quotas.get(self.window_key(limit), 0)
        return units == 0 or used + units <= limit.limit

    def charge(self, limit: Rate | Quota, lease: ModelLease) -> None:
        key = rate_key(limit) if isinstance(limit, Rate) else self.window_key(limit)
        self.change(key, units_of(limit.of, lease.reserve))
        lease.charged.append(key)

    def change(self, key: Key, units: int) -> None:
        if key[0] == "rate":
            missing = self.rates.get(key, Fraction(0)) + units
            self.rates[key] = max(Fraction(0), missing)
        else:
            self.quotas[key] = self.quotas.get(key, 0) + units

    def settle(self, lease_id: str, actual: Usage) -> bool:
        lease = self.leases.pop(lease_id, None)
        for key in lease.charged if lease else []:
            assert lease is not None
            of = key[1]
            self.change(key, units_of(of, actual) - units_of(of, lease.reserve))
        return lease is not None

    def held(self, limit: Concurrency) -> int:
        beyond = sum(
            any(isinstance(each, Concurrency) for each in lease.shadowed)
            for lease in self.leases.values()
        )
        return len(self.leases) - (beyond if limit.shadow else 0)

    def used(self, limit: object) -> int:
        if isinstance(limit, Concurrency):
            return self.held(limit)
        if isinstance(limit, Rate):
            return -int(-self.rates.get(rate_key(limit), Fraction(0)) // 1)
        assert isinstance(limit, Quota)
        return self.quotas.get(self.window_key(limit), 0)

    def window_key(self, quota: Quota) -> Key:
        now = datetime.fromtimestamp(self.now_us // 1_000_000, UTC)
        form = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
        return ("quota " + quota.per, quota.of, now.strftime(form[quota.per]))


def rate_key(rate: Rate) -> Key:
    return ("rate", rate.of, rate.per)


def units_of(of: str, usage: Usage) -> int:
    return usage.tokens if of == "tokens" else usage.requests


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
    ledger = MemoryLedger(lambda: 1_793_600_000_000_000)
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


class LedgerAgainstModel(RuleBasedStateMachine):
    """One workspace lives through a random history in both."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = Model()
        self.ledger: Ledger = MemoryLedger(lambda: self.model.now_us)
        self.numbers = iter(range(10**9))
        self.plan = PLANS[0]

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def ask(self, lease_id: str, reserve: Usage) -> Decision:
        demand = Demand(
            workspace="acme", plan=self.plan, lease_id=lease_id, reserve=reserve
        )
        decision = self.run(self.ledger.admit(demand))
        is_admitted, shadowed = self.model.admit(demand, self.ledger.lease_ttl_ms)

        assert isinstance(decision, Admitted) is is_admitted
        if isinstance(decision, Admitted):
            assert list(decision.shadowed) == shadowed
        self.compare(decision.states)
        return decision

    def compare(self, states: tuple[LimitState, ...]) -> None:
        used = {state.limit: state.used for state in states}
        assert used == {limit: self.model.used(limit) for limit in self.plan.limits}

    @rule(
        target=leases,
        tokens=st.one_of(st.integers(0, 120), st.integers(0, 4000)),
        requests=st.integers(0, 3),
    )
    def admit(self, tokens: int, requests: int) -> Any:
        lease_id = f"lease-{next(self.numbers)}"
        decision = self.ask(lease_id, Usage(requests, tokens))
        return lease_id if isinstance(decision, Admitted) else multiple()

    @rule(lease_id=leases)
    def admit_again(self, lease_id: str) -> None:
        if lease_id in self.model.leases:
            self.ask(lease_id, Usage(1, 1))

    @rule(tokens=st.integers(1, 400))
    def wait_as_told_and_be_admitted(self, tokens: int) -> None:
        decision = self.ask(f"lease-{next(self.numbers)}", Usage(1, tokens))
        while not isinstance(decision, Admitted) and decision.retry_after_ms:
            binding, held = decision.binding.limit, set(self.model.leases)
            self.model.advance(decision.retry_after_ms - 1)
            had_room = self.model.has_room(binding, Usage(1, tokens))
            self.model.advance(1)
            # A lease that was abandoned meanwhile may have changed what there is.
            if held == set(self.model.leases):
                assert not had_room
                assert self.model.has_room(binding, Usage(1, tokens))
            decision = self.ask(f"lease-{next(self.numbers)}", Usage(1, tokens))

    @rule(lease_id=leases, tokens=st.integers(0, 400))
    def renew(self, lease_id: str, tokens: int) -> None:
        lease = self.model.leases.get(lease_id)
        if lease is not None:
            lease.progress = max(lease.progress, tokens)
            self.model.extend(lease_id, self.ledger.lease_ttl_ms)

        renewed = self.run(self.ledger.renew("acme", lease_id, tokens))

        assert renewed is (lease is not None)

    @rule(
        lease_id=consumes(leases),
        tokens=st.integers(0, 600),
        requests=st.integers(0, 2),
    )
    def settle(self, lease_id: str, tokens: int, requests: int) -> None:
        actual = Usage(requests, tokens)

        settled = self.run(self.ledger.settle("acme", lease_id, actual))

        assert settled is self.model.settle(lease_id, actual)
        assert not self.run(self.ledger.settle("acme", lease_id, actual))

    @rule(ms=st.one_of(st.integers(1, 2000), st.integers(1, 4_000_000)))
    def let_time_pass(self, ms: int) -> None:
        self.model.advance(ms)

    @rule(plan=st.sampled_from(PLANS))
    def change_plan(self, plan: Plan) -> None:
        self.plan = plan

    @invariant()
    def same_usage(self) -> None:
        self.compare(self.run(self.ledger.inspect("acme", self.plan)))

    def teardown(self) -> None:
        """After the last settlement nothing is held and nothing reserved."""
        try:
            for lease_id, lease in list(self.model.leases.items()):
                self.settle(lease_id, lease.reserve.tokens // 3, lease.reserve.requests)
            self.same_usage()
        finally:
            self.runner.close()


LedgerAgainstModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None
)
test_ledger_agrees_with_the_model = LedgerAgainstModel.TestCase
