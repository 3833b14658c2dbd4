"""One replica of four, by a clock that stands still, on a line that can be cut."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from policies.memory_ledger import MemoryLedger
from policies.outage.guarded_ledger import GuardedLedger
from policies.outage.replicas import Replicas
from policies.plans import Concurrency, Limit, Plan, Quota, Rate, StoreFailure
from policies.store.store import Store, open_store
from tests.policies.conftest import Clock
from tests.policies.outage.lossy_ledger import Fate, LossyLedger

REPLICAS = 4
RATE = Rate(of="requests", limit=60, per="minute", burst=40)
TOKENS = Quota(of="tokens", limit=1000, per="day")
PLACES = Concurrency(limit=8)


def plan_of(*limits: Limit, on_store_failure: StoreFailure = "share") -> Plan:
    """A plan of these limits."""
    return Plan(
        plan="p",
        rates=tuple(limit for limit in limits if isinstance(limit, Rate)),
        quotas=tuple(limit for limit in limits if isinstance(limit, Quota)),
        concurrency=next((c for c in limits if isinstance(c, Concurrency)), None),
        on_store_failure=on_store_failure,
    )


class Line:
    """Cut or not: the way to a shared ledger."""

    def __init__(self) -> None:
        self.is_cut = False

    def __iter__(self) -> Line:
        return self

    def __next__(self) -> Fate:
        return "refused" if self.is_cut else "ok"


class OneOfFour:
    """A replica that has counted four, and what they share."""

    def __init__(self, store: Store, clock: Clock, fates: Iterable[Fate]) -> None:
        self._clock = clock
        self.line = fates if isinstance(fates, Line) else Line()
        self.shared = LossyLedger(MemoryLedger(clock), fates)
        replicas = Replicas(store, "one", clock_us=clock)
        replicas.count = REPLICAS
        self.ledger = GuardedLedger(
            self.shared, store=store, replicas=replicas, clock_us=clock
        )

    def cut(self) -> None:
        """Fail from now on, with the breaker open."""
        self.line.is_cut = True
        breaker = self.ledger.health.breaker
        while not breaker.fail("timeout", asked_us=2**62, now_us=self._clock()):
            pass


@asynccontextmanager
async def one_of_four(clock: Clock, fates: Iterable[Fate]) -> AsyncIterator[OneOfFour]:
    """Its background is not started, so nothing is ever asked of its store."""
    store = open_store("unix:///nowhere/redis.sock", client_name="test")
    try:
        yield OneOfFour(store, clock, fates)
    finally:
        await store.aclose()
