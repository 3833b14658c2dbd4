"""
Ledgers with one fault each, as others shipped them, and one that is only far away.

A class a fault, and the check that must find it. Nothing else about them is wrong.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from msgspec.structs import replace

from policies.ledger import (
    Admitted,
    Decision,
    Demand,
    Rejected,
    Usage,
)
from policies.memory_ledger import MemoryLedger
from policies.plans import Rate

# A store in another room: slower to answer than to decide, and settling late.
WAY_S: Final = 0.002
SETTLE_S: Final = 0.03
# Streams that are held open reserve more than any other request of a run.
LARGE_TOKENS: Final = 150


def wall_clock_us() -> int:
    return time.time_ns() // 1000


class SettlingLedger(MemoryLedger):
    """One whose `settle` is its own: what nobody waits for goes that way, too."""

    def settle_soon(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> asyncio.Future[bool]:
        return asyncio.ensure_future(self.settle(workspace, lease_id, actual))


class DistantLedger(SettlingLedger):
    """Exact, a round trip away, and settled after the answer was read."""

    async def admit(self, demand: Demand) -> Decision:
        await asyncio.sleep(WAY_S)
        decision = await super().admit(demand)
        await asyncio.sleep(WAY_S)
        return decision

    async def preview(self, demand: Demand) -> Decision:
        await asyncio.sleep(WAY_S)
        return await super().preview(demand)

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        await asyncio.sleep(SETTLE_S)
        return await super().settle(workspace, lease_id, actual)


class RacingLedger(MemoryLedger):
    """Reads, then writes: what is asked meanwhile reads the same."""

    async def admit(self, demand: Demand) -> Decision:
        decision = await self.preview(demand)
        if isinstance(decision, Admitted):
            await asyncio.sleep(WAY_S)
            await self.adopt(demand)
            return replace(decision, lease_id=demand.lease_id)
        return decision


class LeakingLedger(SettlingLedger):
    """Forgets to free the places of large requests, until it is told to."""

    def __init__(self) -> None:
        super().__init__(wall_clock_us)
        self.leaked: list[tuple[str, str]] = []

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        lease = next((x for x in self.held(workspace) if x.lease_id == lease_id), None)
        if lease is not None and lease.reserve.tokens > LARGE_TOKENS:
            self.leaked.append((workspace, lease_id))
            return True
        return await super().settle(workspace, lease_id, actual)

    async def mend(self) -> None:
        for workspace, lease_id in self.leaked:
            await super().settle(workspace, lease_id, Usage())


class ForgetfulLedger(MemoryLedger):
    """Frees a place as soon as it is taken."""

    async def admit(self, demand: Demand) -> Decision:
        decision = await super().admit(demand)
        if isinstance(decision, Admitted):
            await self.settle(demand.workspace, demand.lease_id, demand.reserve)
        return decision


class OverchargingLedger(SettlingLedger):
    """Settles each answer at one token more than it used."""

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        more = replace(actual, tokens=actual.tokens + 1)
        return await super().settle(workspace, lease_id, more)


class StingyLedger(MemoryLedger):
    """Refuses although there is room for three more."""

    async def admit(self, demand: Demand) -> Decision:
        for state in await self.inspect(demand.workspace, demand.plan):
            if isinstance(state.limit, Rate) and state.remaining <= 3:
                return Rejected(
                    reason="rate",
                    binding=state,
                    requested=1,
                    retry_after_ms=100,
                    states=(state,),
                )
        return await super().admit(demand)


class MisleadingLedger(MemoryLedger):
    """Tells a wait that is too short, or too long."""

    def __init__(self, factor: float) -> None:
        super().__init__(wall_clock_us)
        self._factor = factor

    async def admit(self, demand: Demand) -> Decision:
        decision = await super().admit(demand)
        if isinstance(decision, Rejected) and decision.retry_after_ms is not None:
            told_ms = int(decision.retry_after_ms * self._factor)
            return replace(decision, retry_after_ms=told_ms)
        return decision
