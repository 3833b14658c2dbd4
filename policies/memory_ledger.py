"""
The ledger of one process: the port of `ledger.py` over plain Python objects.

Atomic because no method awaits anything: the event loop cannot run another call between
a check and its charge. Every call also does a bounded share of the housekeeping, so no
task has to run and an idle workspace is forgotten.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import msgspec

from policies.ledger import (
    Admitted,
    Decision,
    Demand,
    LeaseSettled,
    LimitState,
    Usage,
)
from policies.plans import MAX_LIMIT, Plan
from policies.workspace_usage import HeldLease, WorkspaceUsage

# Three renewals of 10 s fit in. At half, one stalled round of renewals loses live
# leases; at double, a crashed process holds its places for a minute.
LEASE_TTL_MS: Final = 30_000
# Settled ids outlive any repeated admission, which comes within a second. At a full
# 8,000 requests a second this is 2 s of them, in about 5 MB.
MAX_SETTLED_IDS: Final = 16_384
# An admission brings at most one workspace and one settled id, so looking at two of
# each catches up.
CHORES_PER_ADMISSION: Final = 2

_LeaseKey: TypeAlias = tuple[str, str]  # workspace, lease id


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A lease somebody holds, as it is shown."""

    lease_id: str
    reserve: Usage
    progress_tokens: int
    expires_after_ms: int


class MemoryLedger:
    """
    Counts for one process, by the clock it is given.

    `clock_us` is the time since the epoch. It must not step back: give it a wall clock
    read once and carried on by a monotonic one.
    """

    def __init__(
        self,
        clock_us: Callable[[], int],
        lease_ttl_ms: int = LEASE_TTL_MS,
        *,
        max_settled_ids: int = MAX_SETTLED_IDS,
    ) -> None:
        self._clock_us = clock_us
        self._lease_ttl_ms = lease_ttl_ms
        self._lease_ttl_us = lease_ttl_ms * 1000
        self._max_settled_ids = max_settled_ids
        self._usages: dict[str, WorkspaceUsage] = {}
        # When to see whether a workspace can be forgotten: one entry for each.
        self._visits: list[tuple[int, str]] = []
        # The soonest to expire first: all live equally long, and a renewal moves one to
        # the end. Ordered dictionaries, because a plain one is slow to find its first
        # entry after many removals.
        self._leases: OrderedDict[_LeaseKey, HeldLease] = OrderedDict()
        self._settled: OrderedDict[_LeaseKey, int] = OrderedDict()
        self._abandoned_total = 0

    @property
    def lease_ttl_ms(self) -> int:
        return self._lease_ttl_ms

    @property
    def abandoned_total(self) -> int:
        """Leases that were neither renewed nor settled in time, since the start."""
        return self._abandoned_total

    @property
    def workspaces(self) -> tuple[str, ...]:
        """The workspaces that are remembered: those not idle, and some just become."""
        return tuple(self._usages)

    def held(self, workspace: str) -> tuple[LeaseView, ...]:
        """Who holds this workspace's places."""
        return tuple(self._view_held(workspace, self._clock_us()))

    async def admit(self, demand: Demand) -> Decision:
        """
        Check every limit, then charge all of them or none.

        Raises LeaseSettled for a lease id that was settled within the last ttl.
        """
        if demand.reserve.requests < 0 or demand.reserve.tokens < 0:
            raise ValueError("a reservation cannot be negative")
        now_us = self._clock_us()
        self._keep_house(now_us)
        usage = self._usages.get(demand.workspace)
        if usage is None:
            usage = self._remember_workspace(demand.workspace, now_us)
        usage.follow(demand.plan, now_us)
        key = (demand.workspace, demand.lease_id)
        lease = self._leases.get(key)
        if lease is not None:
            # Whoever repeats an admission is alive.
            self._extend(key, lease, now_us)
        else:
            self._refuse_settled(key, now_us)
            trial = usage.try_out(demand.reserve, now_us)
            if trial.violated:
                return usage.reject(demand.reserve, trial, now_us)
            end_us = now_us + self._lease_ttl_us
            lease = usage.charge(demand.reserve, trial, now_us, end_us)
            self._leases[key] = lease
        return Admitted(
            lease_id=demand.lease_id,
            states=usage.states(now_us),
            shadowed=lease.shadowed,
        )

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """Keep a lease alive and note its progress, which never falls."""
        now_us = self._clock_us()
        self._reclaim_abandoned(now_us)
        key = (workspace, lease_id)
        lease = self._leases.get(key)
        if lease is None:
            return False
        lease.progress_tokens = max(lease.progress_tokens, _bound(tokens))
        self._extend(key, lease, now_us)
        return True

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        """Replace the reservation by what was used and free the lease, once."""
        now_us = self._clock_us()
        self._reclaim_abandoned(now_us)
        key = (workspace, lease_id)
        lease = self._leases.pop(key, None)
        if lease is None:
            return False
        used = Usage(_bound(actual.requests), _bound(actual.tokens))
        lease.settle(used, now_us)
        self._settled[key] = now_us + self._lease_ttl_us
        if len(self._settled) > self._max_settled_ids:
            self._settled.popitem(last=False)
        return True

    async def inspect(self, workspace: str, plan: Plan) -> tuple[LimitState, ...]:
        """Where the workspace stands under this plan; charges nothing."""
        now_us = self._clock_us()
        self._reclaim_abandoned(now_us)
        usage = self._usages.get(workspace)
        looked_at = usage.copy() if usage else WorkspaceUsage()
        looked_at.follow(plan, now_us)
        return looked_at.states(now_us)

    async def aclose(self) -> None:
        """Nothing is held outside the process."""

    def sweep(self, max_chores: int = 1000) -> None:
        """Reclaim and forget what is due, for a process without admissions."""
        self._keep_house(self._clock_us(), max_chores)

    def _extend(self, key: _LeaseKey, lease: HeldLease, now_us: int) -> None:
        lease.expires_us = now_us + self._lease_ttl_us
        self._leases.move_to_end(key)

    def _refuse_settled(self, key: _LeaseKey, now_us: int) -> None:
        if self._settled.get(key, 0) > now_us:
            raise LeaseSettled(key[1])

    def _remember_workspace(self, workspace: str, now_us: int) -> WorkspaceUsage:
        usage = self._usages[workspace] = WorkspaceUsage()
        heapq.heappush(self._visits, (now_us + self._lease_ttl_us, workspace))
        return usage

    def _keep_house(self, now_us: int, max_chores: int = CHORES_PER_ADMISSION) -> None:
        self._reclaim_abandoned(now_us)
        for _ in range(max_chores):
            if not self._visits or self._visits[0][0] > now_us:
                break
            self._visit(now_us)
        for _ in range(max_chores):
            if not self._settled or next(iter(self._settled.values())) > now_us:
                return
            self._settled.popitem(last=False)

    def _reclaim_abandoned(self, now_us: int) -> None:
        # Not limited in number: each was admitted once, and no decision may be taken
        # while a place or a reservation that is free still counts.
        while self._leases:
            if next(iter(self._leases.values())).expires_us > now_us:
                return
            _, lease = self._leases.popitem(last=False)
            lease.abandon()
            self._abandoned_total += 1

    def _visit(self, now_us: int) -> None:
        workspace = self._visits[0][1]
        usage = self._usages[workspace]
        again_us = now_us + self._lease_ttl_us if usage.held else usage.idle_at_us()
        if again_us > now_us:
            heapq.heapreplace(self._visits, (again_us, workspace))
        else:
            heapq.heappop(self._visits)
            del self._usages[workspace]

    def _view_held(self, workspace: str, now_us: int) -> Iterator[LeaseView]:
        for (owner, lease_id), lease in self._leases.items():
            if owner == workspace and lease.expires_us > now_us:
                yield LeaseView(
                    lease_id=lease_id,
                    reserve=lease.reserve,
                    progress_tokens=lease.progress_tokens,
                    expires_after_ms=-(-(lease.expires_us - now_us) // 1000),
                )


def _bound(units: int) -> int:
    # An upstream's report may be absurd; it must neither pay the caller nor lock it out
    # for longer than any limit could.
    return min(max(0, units), MAX_LIMIT)
