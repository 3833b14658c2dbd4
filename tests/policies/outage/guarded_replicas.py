"""Gateways' ledgers with connections of their own to one real store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias

from policies.ledger import (
    Admitted,
    Demand,
    Ledger,
    LedgerUnavailable,
    Usage,
)
from policies.memory_ledger import LEASE_TTL_MS
from policies.outage.guarded_ledger import GuardedLedger
from policies.outage.replicas import Replicas
from policies.plans import Concurrency, Plan, Quota
from policies.redis_ledger import RedisLedger
from policies.store.store import Store, open_store
from tests.servers.process import until

MakeDemand = Callable[..., Demand]
StartReplicas: TypeAlias = Callable[..., Awaitable[list["Replica"]]]

TIMEOUT_S = 0.05
# What a loaded machine adds to a time-out, at most.
SLACK_S = 0.2
PLAN = Plan(
    plan="p",
    quotas=(Quota(of="tokens", limit=100_000, per="month"),),
    concurrency=Concurrency(limit=8),
)


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class Replica:
    """One gateway's ledger, with a store connection of its own."""

    def __init__(self, url: str, name: str, **options: Any) -> None:
        ttl_ms = options.pop("lease_ttl_ms", LEASE_TTL_MS)
        self.store: Store = open_store(url, timeout_s=TIMEOUT_S, client_name=name)
        self.replicas = Replicas(
            self.store, name, clock_us=wall_clock_us, interval_s=0.05, ttl_s=0.5
        )
        self.ledger = GuardedLedger(
            RedisLedger(self.store, ttl_ms),
            store=self.store,
            replicas=self.replicas,
            clock_us=wall_clock_us,
            **options,
        )

    async def until_away(self) -> None:
        breaker = self.ledger.health.breaker
        await until(lambda: not breaker.is_closed, "the breaker to open")

    async def until_back(self) -> None:
        """Exact again, and with nothing left to be sent."""
        await until(self.is_settled, "the store to be told of everything")

    def is_settled(self) -> bool:
        return self.ledger.health.is_closed and not self.ledger.journal.depth


async def used(ledger: Ledger, plan: Plan = PLAN) -> list[int]:
    return [state.used for state in await ledger.inspect("acme", plan)]


async def run_request(ledger: Ledger, demand: Demand, tokens: int) -> bool:
    """Whether it was admitted."""
    try:
        decision = await ledger.admit(demand)
    except LedgerUnavailable:
        return False
    if not isinstance(decision, Admitted):
        return False
    await ledger.settle(demand.workspace, demand.lease_id, Usage(1, tokens))
    return True


@asynccontextmanager
async def started_replicas(url: str) -> AsyncIterator[StartReplicas]:
    """Starts replicas that have counted one another; closes them all."""
    async with AsyncExitStack() as running:

        async def start(count: int = 1, **options: Any) -> list[Replica]:
            started = [
                Replica(url, f"replica-{number}", **options) for number in range(count)
            ]
            for replica in started:
                replica.ledger.start()
                running.push_async_callback(replica.ledger.aclose)
            await until(
                lambda: {count} == {each.replicas.count for each in started},
                "the replicas to count one another",
            )
            return started

        yield start
