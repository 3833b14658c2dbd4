"""
Settlements the store has not taken yet: none is lost, and memory is bounded.

Leases the store never heard of are summed up, one entry for a workspace, plan, key and
second, and above `max_entries` for an hour: every quota's window is made of whole
hours, so quotas are charged as they were used. What the store may know waits for
itself. Only above `max_entries` once more is a settlement given up, and counted.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Final, TypeAlias

from policies.ledger import NOTHING, Demand
from policies.outage.settlement import Settlement
from policies.plans import Concurrency
from policies.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

# Ten minutes of an outage with eighty busy workspaces, in about 50 MB.
MAX_ENTRIES: Final = 50_000
# Sent together: at 1 ms a reply some 20,000 a second, which a returning store bears
# beside its clients. Half as many drain a full journal in 5 s instead of 2.5.
BATCH: Final = 64
# An entry that is adopted holds a place of its workspace until it is settled, a moment
# later: this part of the places at once, so that hardly a request is refused for it.
PLACES_PART: Final = 8

# A sum is charged as of its first lease: of a rate, so much refill too early at most.
_SECOND_US: Final = 1_000_000
_HOUR_US: Final = 3600 * _SECOND_US
# One workspace's data may refuse each of its settlements.
_TOLD_EVERY_US: Final = 60 * _SECOND_US
_Sum: TypeAlias = tuple[str, str, str, int, int]  # workspace, plan, key, width, number


class Journal:
    """Unsent settlements, by workspace; the oldest of each first."""

    def __init__(
        self, clock_us: Callable[[], int], *, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._clock_us = clock_us
        self._max_entries = max_entries
        self._queues: OrderedDict[str, OrderedDict[str, Settlement]] = OrderedDict()
        self._sums: dict[_Sum, Settlement] = {}
        self._filled = asyncio.Event()
        self._refusal_told_us = -_TOLD_EVERY_US
        self.depth = 0
        # Since the start: ended leases that were added to another's entry; and those
        # whose usage the store will never hear of.
        self.merged_total = 0
        self.lost_total = 0

    def __contains__(self, lease: tuple[str, str]) -> bool:
        workspace, lease_id = lease
        return lease_id in self._queues.get(workspace, ())

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest entry has waited; 0 of none."""
        oldest_us = min(
            (next(iter(queue.values())).queued_us for queue in self._queues.values()),
            default=None,
        )
        return 0.0 if oldest_us is None else (self._clock_us() - oldest_us) / 1e6

    def put(self, settlement: Settlement) -> None:
        """Keep a settlement until the store has it."""
        demand = settlement.demand
        if demand is not None and settlement.is_unheard_of:
            self._add_up(settlement, demand)
        elif self.depth < 2 * self._max_entries:
            self._append(settlement)
        else:
            self._lose(settlement)

    async def wait(self) -> None:
        """Until there is something to send."""
        await self._filled.wait()

    async def send_batch(self, send: Callable[[Settlement], Awaitable[bool]]) -> int:
        """
        Send some of the oldest, a few of each workspace; how many remain to be retried.

        What is not sent, or whose sending is cancelled, stays.
        """
        batch = self._choose()
        outcomes = await asyncio.gather(*map(send, batch), return_exceptions=True)
        failed = 0
        for settlement, outcome in zip(batch, outcomes, strict=True):
            if _is_to_be_retried(outcome):
                failed += 1
                continue
            self._remove(settlement)
            if isinstance(outcome, BaseException):
                self._give_up(settlement, outcome)
        return failed

    def give_up(self) -> int:
        """Count whatever is left as lost; how many leases that is."""
        queues = self._queues.values()
        left = sum(each.leases for queue in queues for each in queue.values())
        self._queues.clear()
        self._sums.clear()
        self.depth = 0
        self.lost_total += left
        return left

    def _give_up(self, settlement: Settlement, error: BaseException) -> None:
        """Data that is not ours, or a bug: it would meet it again each time."""
        if settlement.actual == NOTHING:
            return  # taking back what was perhaps never given loses no usage
        self.lost_total += settlement.leases
        now_us = self._clock_us()
        if now_us >= self._refusal_told_us + _TOLD_EVERY_US:
            self._refusal_told_us = now_us
            logger.error("a settlement is refused and lost", exc_info=error)

    def _append(self, settlement: Settlement) -> None:
        settlement.queued_us = self._clock_us()
        queue = self._queues.setdefault(settlement.workspace, OrderedDict())
        self.depth += settlement.lease_id not in queue
        queue[settlement.lease_id] = settlement
        self._filled.set()

    def _add_up(self, settlement: Settlement, demand: Demand) -> None:
        is_full = self.depth >= self._max_entries
        name = _sum_of(settlement, demand, _HOUR_US if is_full else _SECOND_US)
        into = self._sums.get(name)
        if into is not None:
            into.add(settlement)
            self.merged_total += 1
        elif self.depth < 2 * self._max_entries:
            # The store never heard of the lease, so this id is as good as its own.
            settlement.lease_id = uuid.uuid4().hex
            self._sums[name] = settlement
            self._append(settlement)
        else:
            self._lose(settlement)

    def _lose(self, settlement: Settlement) -> None:
        if self.lost_total == 0:
            logger.error("the journal is full, settlements are being lost")
        self.lost_total += settlement.leases

    def _choose(self) -> list[Settlement]:
        batch: list[Settlement] = []
        for workspace in list(islice(self._queues, BATCH)):
            queue = self._queues[workspace]
            # The next batch begins with others.
            self._queues.move_to_end(workspace)
            most = min(_most_at_once(next(iter(queue.values()))), BATCH - len(batch))
            batch += islice(queue.values(), most)
            if len(batch) == BATCH:
                break
        for settlement in batch:
            self._finish_sum(settlement)
        return batch

    def _finish_sum(self, settlement: Settlement) -> None:
        """What is being sent must not grow."""
        if settlement.demand is None:
            return
        for width_us in (_SECOND_US, _HOUR_US):
            name = _sum_of(settlement, settlement.demand, width_us)
            if self._sums.get(name) is settlement:
                del self._sums[name]

    def _remove(self, settlement: Settlement) -> None:
        queue = self._queues.get(settlement.workspace, OrderedDict())
        for lease_id, waiting in queue.items():
            if waiting is settlement:
                del queue[lease_id]
                self.depth -= 1
                break
        if not queue:
            self._queues.pop(settlement.workspace, None)
        if not self.depth:
            self._filled.clear()


def _is_to_be_retried(outcome: bool | BaseException) -> bool:
    if isinstance(outcome, StoreUnavailable):
        return outcome.is_outage
    return isinstance(outcome, asyncio.CancelledError)


def _most_at_once(settlement: Settlement) -> int:
    """How many settlements of one workspace may be on their way together."""
    demand = settlement.demand
    if demand is None:
        return BATCH
    limits = (*demand.plan.limits, *(demand.key.limits.limits if demand.key else ()))
    places = [limit.limit for limit in limits if isinstance(limit, Concurrency)]
    return max(1, min(places, default=PLACES_PART * BATCH) // PLACES_PART)


def _sum_of(settlement: Settlement, demand: Demand, width_us: int) -> _Sum:
    key_id = demand.key.id if demand.key else ""
    number = settlement.admitted_us // width_us
    return demand.workspace, demand.plan.plan, key_id, width_us, number
