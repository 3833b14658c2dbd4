"""
What this replica tells the shared ledger of its leases, and how that went.

Each message is safe to repeat, and every failure is noted before it is passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from policies.ledger import Ledger
from policies.outage.journal import Journal
from policies.outage.running_leases import RunningLease, RunningLeases
from policies.outage.settlement import Settlement, may_have_happened
from policies.outage.store_health import StoreHealth
from policies.store.errors import StoreUnavailable

# Leases told to a returning store together: so few that a busy event loop sends and
# hears them within one store time-out. Half as many make a recovery slower.
TELL_BATCH: Final = 64
# The second round is for what shares admitted during the first. More could go on for
# ever; what is left is told right after the return.
TELL_ROUNDS: Final = 2
# Between tries of a replica that closes.
CLOSE_RETRY_S: Final = 0.1


class Courier:
    """Carries leases and settlements to a ledger that may be away."""

    def __init__(
        self,
        shared: Ledger,
        *,
        health: StoreHealth,
        running: RunningLeases,
        clock_us: Callable[[], int],
    ) -> None:
        self._shared = shared
        self._health = health
        self._running = running
        self._clock_us = clock_us
        # Leases the store had lost, or never had, and was told of.
        self.told_total = 0

    async def tell(self, lease: RunningLease) -> bool:
        """Let the store hold a lease that runs here; False if it was settled."""
        demand = lease.demand
        if self._running.find(demand.workspace, demand.lease_id) is not lease:
            # Ended while this waited for its turn, perhaps as part of a sum.
            return False
        asked_us = self._clock_us()
        before_us = lease.confirmed_us
        # Noted first: it may be settled while this is on its way.
        lease.confirmed_us = asked_us if before_us is None else before_us
        try:
            is_running = await self._shared.adopt(demand, lease.age_ms(asked_us))
        except StoreUnavailable as error:
            if not may_have_happened(error):
                lease.confirmed_us = before_us
            self._health.failed(error, asked_us=asked_us)
            raise
        self._health.succeeded(asked_us=asked_us)
        lease.confirm(asked_us)
        self.told_total += 1
        return is_running

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """Renew in the store, which is told again of what it lost."""
        lease = self._running.find(workspace, lease_id)
        if lease is not None and not lease.is_known and not await self.tell(lease):
            return False
        asked_us = self._clock_us()
        try:
            is_held = await self._shared.renew(workspace, lease_id, tokens)
        except StoreUnavailable as error:
            self._health.failed(error, asked_us=asked_us)
            raise
        self._health.succeeded(asked_us=asked_us, call="renew", needs_memory=False)
        if lease is None:
            return is_held
        if is_held:
            lease.confirm(asked_us)
            lease.note_progress(tokens, asked_us)
            return True
        return self._is_lost(lease, asked_us) and await self.tell(lease)

    def _is_lost(self, lease: RunningLease, now_us: int) -> bool:
        """Whether the store cannot have taken this lease for abandoned."""
        ttl_us = self._shared.lease_ttl_ms * 1000
        return lease.confirmed_us is not None and now_us - lease.confirmed_us < ttl_us

    async def send(self, settlement: Settlement) -> bool:
        """Settle in the store; False if it held nothing of the kind."""
        asked_us = self._clock_us()
        ttl_us = self._shared.lease_ttl_ms * 1000
        try:
            is_settled = await settlement.send(self._shared, asked_us, ttl_us)
        except StoreUnavailable as error:
            self._health.failed(error, asked_us=asked_us)
            raise
        self._health.succeeded(asked_us=asked_us, call="settle", needs_memory=False)
        return is_settled

    async def send_all(self, journal: Journal) -> None:
        """Send what the journal keeps, until there is nothing left."""
        while journal.depth:
            if await journal.send_batch(self.send):
                # Whatever the breaker says: nobody probes any more, and a store that
                # fails over while replicas are replaced is back within the deadline.
                await asyncio.sleep(CLOSE_RETRY_S)

    async def tell_all(self) -> int:
        """Tell a returning store of every lease that runs here; of how many."""
        told = 0
        for _ in range(TELL_ROUNDS):
            missed = self._missed()
            for batch in _in_batches(missed):
                await self._tell_batch(batch)
            told += len(missed)
            if not missed:
                break
        return told

    async def _tell_batch(self, batch: list[RunningLease]) -> None:
        told = await asyncio.gather(*map(self.tell, batch), return_exceptions=True)
        for lease, outcome in zip(batch, told, strict=True):
            if isinstance(outcome, StoreUnavailable) and not outcome.is_outage:
                # One workspace's data cannot be read; the others' return does not wait.
                pass
            elif isinstance(outcome, BaseException):
                raise outcome
            lease.recovery = self._health.breaker.opened_total

    def _missed(self) -> list[RunningLease]:
        # One whose owner is silent is left to be abandoned. One that was told in this
        # outage is not told again when its recovery failed later: if the store lost its
        # data in between once more, the lease's next renewal finds out.
        alive_us = self._clock_us() - self._shared.lease_ttl_ms * 1000
        return [
            lease
            for lease in self._running
            if lease.recovery != self._health.breaker.opened_total
            and lease.seen_us >= alive_us
            and not (self._health.is_closed and lease.is_known)
        ]


def _in_batches(leases: list[RunningLease]) -> Iterator[list[RunningLease]]:
    for start in range(0, len(leases), TELL_BATCH):
        yield leases[start : start + TELL_BATCH]
