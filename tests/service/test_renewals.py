"""Leases that are held for long, and there are many of them."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from gateway.admission import Admission
from gateway.auth import Principal
from gateway.renewing import RENEWED_TOGETHER
from gateway.secret import Secret
from gateway.telemetry.metrics import Telemetry
from gateway.translation.port import TokenDemand
from policies.estimate import OutputEstimator
from policies.memory_ledger import MemoryLedger
from policies.plans import Plan
from tests.gateway_under_test import until

HELD = 3 * RENEWED_TOGETHER + 1


class CountingLedger(MemoryLedger):
    """Answers a tick later, and notes how many renewals waited at once."""

    def __init__(self) -> None:
        super().__init__(lambda: 1_793_600_000_000_000, lease_ttl_ms=30)
        self.renewed: set[str] = set()
        self.most_waiting = 0
        self._waiting = 0

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        self._waiting += 1
        self.most_waiting = max(self.most_waiting, self._waiting)
        await asyncio.sleep(0)
        self._waiting -= 1
        self.renewed.add(lease_id)
        return await super().renew(workspace, lease_id, tokens)


async def test_renewals_are_sent_in_portions_a_store_answers_in_time() -> None:
    """Thousands at once would miss the store's time-out together, every round."""
    ledger = CountingLedger()
    admission = Admission(
        ledger, estimator=OutputEstimator(), telemetry=Telemetry(), now_ms=lambda: 0
    )
    principal = Principal(
        workspace="acme",
        plan=Plan(plan="open"),
        key_id="",
        models=None,
        api_key=Secret(""),
        is_own_key=False,
    )
    demand = TokenDemand(input_tokens=1, text_tokens=1, max_output_tokens=1)
    with ExitStack() as held:
        for _ in range(HELD):
            held.enter_context(await admission.admit(principal, "m", demand))
        renewing = asyncio.create_task(admission.keep_alive())

        await until(lambda: len(ledger.renewed) == HELD, "every lease to be renewed")

        renewing.cancel()
    await admission.finish_settling()
    assert ledger.most_waiting == RENEWED_TOGETHER
