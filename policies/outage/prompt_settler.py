"""
Settlements that are begun at once, and that nobody waits for.

The plain good case, a store that answers and holds the lease, needs no task: the
answer's callback does what `Courier.send` and `GuardedLedger.settle` do around an await
of it, at 21 us of CPU where it was 30. Whatever else becomes of it goes their way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from policies.futures import to_future
from policies.ledger import Ledger, Usage
from policies.outage.journal import Journal
from policies.outage.running_leases import RunningLease
from policies.outage.settlement import Settlement
from policies.outage.store_health import StoreHealth
from policies.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)


class PromptSettler:
    """Sends the ends of leases that a healthy store is known to hold."""

    def __init__(
        self,
        shared: Ledger,
        *,
        health: StoreHealth,
        journal: Journal,
        hand_in: Callable[[Settlement], Coroutine[Any, Any, bool]],
        clock_us: Callable[[], int],
    ) -> None:
        """`hand_in` settles what is not settled by one answer."""
        self._shared = shared
        self._health = health
        self._journal = journal
        self._hand_in = hand_in
        self._clock_us = clock_us
        # Held here: an event loop alone may lose a task that nobody else knows.
        self._handed_in: set[asyncio.Task[bool]] = set()

    def begin(self, lease: RunningLease, actual: Usage) -> asyncio.Future[bool] | None:
        """
        Settle it; None where that is done already.

        Whoever cancels the future gives up the answer only, not the settlement.
        """
        asked_us, demand = self._clock_us(), lease.demand
        sent = self._shared.settle_soon(demand.workspace, demand.lease_id, actual)
        if sent is None:
            self._health.succeeded(asked_us=asked_us, needs_memory=False)
            return None
        begun = to_future(sent)
        told: asyncio.Future[bool] = begun.get_loop().create_future()
        begun.add_done_callback(partial(self._end, lease, actual, asked_us, told))
        return told

    def _end(
        self,
        lease: RunningLease,
        actual: Usage,
        asked_us: int,
        told: asyncio.Future[bool],
        begun: asyncio.Future[bool],
    ) -> None:
        if begun.cancelled() or begun.exception() is not None:
            self._fail(lease, actual, asked_us, told, begun)
            return
        self._health.succeeded(asked_us=asked_us, call="settle", needs_memory=False)
        if not begun.result():
            settlement = Settlement.of(lease, actual)
            if settlement.was_lost(asked_us):
                # Nothing was charged, and from now on this id is barred.
                settlement.rename()
                self._pass_on(settlement, told)
                return
        if not told.done():
            told.set_result(begun.result())

    def _fail(
        self,
        lease: RunningLease,
        actual: Usage,
        asked_us: int,
        told: asyncio.Future[bool],
        begun: asyncio.Future[bool],
    ) -> None:
        """Keep the settlement until the store takes it, which it may have done."""
        error = None if begun.cancelled() else begun.exception()
        if error is not None and not isinstance(error, StoreUnavailable):
            # A bug, which would meet it again each time.
            if told.done():
                logger.error("a settlement is refused and lost", exc_info=error)
            else:
                told.set_exception(error)
            return
        settlement = Settlement.of(lease, actual)
        settlement.note_sent(error, asked_us)
        if error is not None:
            self._health.failed(error, asked_us=asked_us)
        self._journal.put(settlement)
        if error is None:
            told.cancel()
        elif not told.done():
            told.set_result(True)

    def _pass_on(self, settlement: Settlement, told: asyncio.Future[bool]) -> None:
        task = asyncio.ensure_future(self._hand_in(settlement))
        self._handed_in.add(task)
        task.add_done_callback(partial(self._tell, told))

    def _tell(self, told: asyncio.Future[bool], task: asyncio.Task[bool]) -> None:
        self._handed_in.discard(task)
        if task.cancelled():
            told.cancel()
            return
        error = task.exception()
        if told.done():
            if error is not None:
                logger.error("a settlement is refused and lost", exc_info=error)
            return
        if error is not None:
            told.set_exception(error)
        else:
            told.set_result(task.result())
