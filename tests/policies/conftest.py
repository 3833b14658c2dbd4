"""
Ledgers under test, and control over the time they live in.

The tests of `test_ledger_*.py` know the port only. Another implementation joins them as
a second parameter of `ledger`, if `advance` and `travel_to` can move its clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import settings

from policies.ledger import Demand, Ledger, Usage
from policies.memory_ledger import MemoryLedger
from policies.plans import Plan

# A loaded machine makes a fast example slow now and then; that is no finding.
settings.register_profile("policies", deadline=None)
settings.load_profile("policies")

# A Monday, early in its month, its day and its hour.
START = datetime(2026, 11, 2, 6, 0, 0, tzinfo=UTC)


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


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory"])
def ledger(request: pytest.FixtureRequest, clock: Clock) -> Ledger:
    return MemoryLedger(clock)


@pytest.fixture
def advance(clock: Clock) -> Callable[[int], None]:
    """Let milliseconds pass."""
    return clock.advance


@pytest.fixture
def travel_to(clock: Clock) -> Callable[[str], None]:
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
