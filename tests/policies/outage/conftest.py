"""One replica of four on a shared ledger in memory, behind a line that can be cut."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from policies.outage.guarded_ledger import GuardedLedger
from tests.policies.conftest import Clock
from tests.policies.outage.one_of_four import Line, OneOfFour, one_of_four


@pytest.fixture
def ledger_kind() -> str:
    return "memory"


@pytest.fixture
async def replica(clock: Clock) -> AsyncIterator[OneOfFour]:
    async with one_of_four(clock, Line()) as replica:
        yield replica


@pytest.fixture
def ledger(replica: OneOfFour) -> GuardedLedger:
    return replica.ledger
