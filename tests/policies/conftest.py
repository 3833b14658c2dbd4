"""
Ledgers under test, and control over the time they live in.

The tests of `test_ledger_*.py` know the port only, and run on every implementation:
memory, one Redis, and a cluster, whose time stands still until a test moves it.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final, Literal

import pytest
from hypothesis import settings

from policies.ledger import Demand, Ledger, Usage
from policies.memory_ledger import MemoryLedger
from policies.plans import Plan
from policies.redis_ledger import RedisLedger
from policies.store.store import open_store
from tests.servers.clock import START, FakeClock

# A loaded machine makes a fast example slow now and then; that is no finding.
settings.register_profile("policies", deadline=None)
settings.load_profile("policies")

# A server under a standing clock is not slow; a loaded machine may be.
PATIENCE_S: Final = 5.0


class Clock:
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_us = 0
        self.travel_to(START.isoformat())

    def __call__(self) -> int:
        return self.now_us

    def advance(self, ms: int) -> None:
        self.now_us += ms * 1000

    def travel_to(self, instant: str) -> None:
        moment = datetime.fromisoformat(instant).replace(tzinfo=UTC)
        self.now_us = int(moment.timestamp()) * 1_000_000


LedgerKind = Literal["memory", "redis", "cluster"]


@pytest.fixture(params=["memory", "redis", "cluster"])
def ledger_kind(request: pytest.FixtureRequest) -> LedgerKind:
    """Every test of the port runs on each; a module of one ledger's own says which."""
    kind: LedgerKind = request.param
    return kind


@pytest.fixture
def clock(request: pytest.FixtureRequest, ledger_kind: LedgerKind) -> Clock | FakeClock:
    if ledger_kind == "memory":
        return Clock()
    found: FakeClock = request.getfixturevalue("redis_clock")
    return found


@pytest.fixture
def store_url(request: pytest.FixtureRequest, ledger_kind: LedgerKind) -> str | None:
    """Where an empty store is; None for the memory ledger."""
    if ledger_kind == "memory":
        return None
    name = "timed_redis" if ledger_kind == "redis" else "timed_cluster"
    url: str = request.getfixturevalue(name).url
    return url


@pytest.fixture
async def ledger(
    store_url: str | None, clock: Clock | FakeClock
) -> AsyncIterator[Ledger]:
    if store_url is None:
        yield MemoryLedger(clock)
        return
    store = open_store(
        store_url,
        timeout_s=PATIENCE_S,
        connect_timeout_s=PATIENCE_S,
        client_name="test",
    )
    redis = RedisLedger(store)
    yield redis
    await redis.aclose()


@pytest.fixture
def advance(clock: Clock | FakeClock) -> Callable[[int], None]:
    """Let milliseconds pass."""
    return clock.advance


@pytest.fixture
def travel_to(clock: Clock | FakeClock) -> Callable[[str], None]:
    """Go to an instant in UTC, later than now."""
    return clock.travel_to


@pytest.fixture
def demand() -> Callable[..., Demand]:
    """Make a demand of one request; a lease id of its own unless one is given."""
    numbers = itertools.count(1)

    def make(
        plan: Plan,
        tokens: int = 0,
        *,
        requests: int = 1,
        workspace: str = "acme",
        lease_id: str | None = None,
    ) -> Demand:
        return Demand(
            workspace=workspace,
            plan=plan,
            lease_id=lease_id or f"lease-{next(numbers)}",
            reserve=Usage(requests=requests, tokens=tokens),
        )

    return make
