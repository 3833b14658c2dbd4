"""A ledger at the end of a bad line: it loses what it is asked, or what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias, TypeVar

from policies.ledger import Decision, Demand, KeyScope, LimitState, Usage
from policies.memory_ledger import MemoryLedger
from policies.plans import Plan
from policies.store.errors import StoreUnavailable

# What becomes of a call: carried out; lost before; carried out and its reply lost; or
# lost in a way that nobody can tell from the one before.
Fate: TypeAlias = Literal["ok", "refused", "reply lost", "lost"]
T = TypeVar("T")


class LossyLedger:
    """A memory ledger whose calls meet the given fates, and go well after those."""

    def __init__(self, memory: MemoryLedger, fates: Iterable[Fate] = ()) -> None:
        self.memory = memory
        self._fates = iter(fates)
        self.calls: list[str] = []

    @property
    def lease_ttl_ms(self) -> int:
        return self.memory.lease_ttl_ms

    @property
    def abandoned_total(self) -> int:
        return self.memory.abandoned_total

    async def _meet(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(name)
        fate = next(self._fates, "ok")
        if fate == "refused":
            raise StoreUnavailable("connection")
        if fate == "lost":
            raise StoreUnavailable("timeout", is_ambiguous=True)
        reply = await call()
        if fate == "reply lost":
            raise StoreUnavailable("timeout", is_ambiguous=True)
        return reply

    async def admit(self, demand: Demand) -> Decision:
        return await self._meet("admit", lambda: self.memory.admit(demand))

    async def adopt(self, demand: Demand, age_ms: int = 0) -> bool:
        return await self._meet("adopt", lambda: self.memory.adopt(demand, age_ms))

    async def preview(self, demand: Demand) -> Decision:
        return await self._meet("preview", lambda: self.memory.preview(demand))

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        return await self._meet(
            "renew", lambda: self.memory.renew(workspace, lease_id, tokens)
        )

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        return await self._meet(
            "settle", lambda: self.memory.settle(workspace, lease_id, actual)
        )

    def settle_soon(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> asyncio.Future[bool] | None:
        return asyncio.ensure_future(self.settle(workspace, lease_id, actual))

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        return await self._meet(
            "inspect", lambda: self.memory.inspect(workspace, plan, key)
        )

    async def aclose(self) -> None:
        await self.memory.aclose()
