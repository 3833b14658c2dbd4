"""
The ledger of one process: the port of `ledger.py` over plain Python objects.

Atomic because no method awaits anything: the event loop cannot run another call between
a check and its charge. Every call also does a bounded share of the housekeeping, so no
task has to run and an idle workspace is forgotten.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import msgspec

from policies.in_force import InForce, is_enforced
from policies.ledger import (
    Decision,
    Demand,
    KeyScope,
    LeaseSettled,
    LimitState,
    Usage,
)
from policies.plans import MAX_LIMIT, Plan
from policies.workspace_usage import (
    HeldLease,
    WorkspaceUsage,
    admitted,
    charge,
    rejected,
)

# Three renewals of 10 s fit in. At half, one stalled round of renewals loses live
# leases; at double, a crashed process holds its places for a minute.
LEASE_TTL_MS: Final = 30_000
# Settled ids outlive any repeated admission, which comes within a second. At a full
# 8,000 requests a second this is 2 s of them, in about 5 MB.
MAX_SETTLED_IDS: Final = 16_384
# How long an owner that was taken for dead may still say what it really used: longer
# than any outage it could have been cut off by and lived through.
ABANDONED_KEPT_US: Final = 3600 * 1_000_000
# More than any limit can hold, so that what is cut to it is refused like the rest.
MAX_DEMAND: Final = MAX_LIMIT + 1
# An admission brings at most one workspace and one settled id, so looking at two of
# each catches up.
CHORES_PER_ADMISSION: Final = 2
# Later than any instant: nothing is due.
NEVER_US: Final = 2**63

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
        self._abandoned: OrderedDict[_LeaseKey, HeldLease] = OrderedDict()
        self._abandoned_total = 0
        # Nothing is due before these: of the leases, held or abandoned, and of the
        # other chores. Until then a call pays a comparison for each.
        self._leases_due_us = NEVER_US
        self._chores_due_us = NEVER_US

    @property
    def lease_ttl_ms(self) -> int:
        return self._lease_ttl_ms

    @property
    def abandoned_total(self) -> int:
        """Leases this instance found abandoned, since its start."""
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
        now_us = self._clock_us()
        if now_us >= self._leases_due_us or now_us >= self._chores_due_us:
            self._keep_house(now_us)
        key = (demand.workspace, demand.lease_id)
        in_force = self._usage(demand.workspace, now_us).follow(
            demand.plan, demand.key, now_us
        )
        lease = self._leases.get(key)
        if lease is not None:
            # Whoever repeats an admission is alive.
            self._extend(key, lease, now_us)
        else:
            self._refuse_settled(key, now_us)
            reserve = checked(demand.reserve)
            refused = in_force.refusing(reserve, now_us)
            if refused and is_enforced(refused):
                return rejected(demand, in_force, now_us)
            end_us = now_us + self._lease_ttl_us
            lease = charge(
                *(reserve, in_force, refused, now_us, end_us),
                takes_place=demand.takes_place,
            )
            self._hold(key, lease)
        return admitted(demand.lease_id, in_force, lease.refused, now_us)

    async def adopt(self, demand: Demand, age_ms: int = 0) -> bool:
        """Hold and charge a lease that was admitted elsewhere; False if it ended."""
        now_us = self._clock_us()
        self._keep_house(now_us)
        key = (demand.workspace, demand.lease_id)
        in_force = self._usage(demand.workspace, now_us).follow(
            demand.plan, demand.key, now_us
        )
        lease = self._leases.get(key)
        abandoned = self._abandoned.pop(key, None)
        end_us = now_us + self._lease_ttl_us
        if lease is not None:
            self._extend(key, lease, now_us)
        elif abandoned is not None:
            abandoned.take_places()
            abandoned.expires_us = end_us
            self._hold(key, abandoned)
            self._settled.pop(key, None)
        elif self._settled.get(key, 0) > now_us:
            return False
        else:
            reserve = checked(demand.reserve)
            then_us = now_us - max(0, age_ms) * 1000
            lease = charge(
                *(reserve, in_force, [], then_us, end_us),
                takes_place=demand.takes_place,
            )
            self._hold(key, lease)
        return True

    async def preview(self, demand: Demand) -> Decision:
        """What `admit` would decide now; charges nothing and ignores the lease id."""
        now_us = self._clock_us()
        self._reclaim_abandoned(now_us)
        in_force = self._looked_at(demand.workspace, demand.plan, demand.key, now_us)
        refused = in_force.refusing(checked(demand.reserve), now_us)
        if is_enforced(refused):
            return rejected(demand, in_force, now_us)
        dimensions = {slot.dimension for slot in refused}
        return admitted(demand.lease_id, in_force, dimensions, now_us)

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """Keep a lease alive and note its progress, which never falls."""
        now_us = self._clock_us()
        self._reclaim_abandoned(now_us)
        key = (workspace, lease_id)
        lease = self._leases.get(key)
        if lease is None:
            return False
        progress = bounded(Usage(0, tokens), MAX_LIMIT).tokens
        lease.progress_tokens = max(lease.progress_tokens, progress)
        if progress > lease.charged.tokens:
            lease.correct(Usage(lease.charged.requests, progress), now_us)
        self._extend(key, lease, now_us)
        return True

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        """Replace the reservation by what was used and free the lease, once."""
        return self._settle(workspace, lease_id, actual)

    def settle_soon(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> asyncio.Future[bool] | None:
        """As `settle`, done when this returns: without a task 4 us, not 15."""
        self._settle(workspace, lease_id, actual)
        return None

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        """Where the workspace stands under this plan, and the key; charges nothing."""
        now_us = self._clock_us()
        self._reclaim_abandoned(now_us)
        return self._looked_at(workspace, plan, key, now_us).states(now_us)

    async def aclose(self) -> None:
        """Nothing is held outside the process."""

    def sweep(self, max_chores: int = 1000) -> None:
        """Reclaim and forget what is due, for a process without admissions."""
        self._keep_house(self._clock_us(), max_chores)

    def _settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        now_us = self._clock_us()
        if now_us >= self._leases_due_us:
            self._reclaim_abandoned(now_us)
        key = (workspace, lease_id)
        lease = self._leases.pop(key, None)
        if lease is not None:
            lease.take_places(-1)
        elif self._abandoned:
            lease = self._abandoned.pop(key, None)
        if lease is not None:
            lease.correct(bounded(actual, MAX_LIMIT), now_us)
        self._bar(key, now_us)
        return lease is not None

    def _hold(self, key: _LeaseKey, lease: HeldLease) -> None:
        self._leases[key] = lease
        self._leases_due_us = min(self._leases_due_us, lease.expires_us)

    def _extend(self, key: _LeaseKey, lease: HeldLease, now_us: int) -> None:
        lease.expires_us = now_us + self._lease_ttl_us
        self._leases.move_to_end(key)

    def _bar(self, key: _LeaseKey, now_us: int) -> None:
        """Let no admission of this lease id pass for a ttl."""
        settled = self._settled
        until_us = now_us + self._lease_ttl_us
        if key in settled:
            if settled[key] > now_us:
                return
            settled.move_to_end(key)
        settled[key] = until_us
        self._chores_due_us = min(self._chores_due_us, until_us)
        if len(settled) > self._max_settled_ids:
            settled.popitem(last=False)

    def _refuse_settled(self, key: _LeaseKey, now_us: int) -> None:
        if self._settled.get(key, 0) > now_us or key in self._abandoned:
            raise LeaseSettled(key[1])

    def _usage(self, workspace: str, now_us: int) -> WorkspaceUsage:
        usage = self._usages.get(workspace)
        if usage is None:
            usage = self._usages[workspace] = WorkspaceUsage()
            visit_us = now_us + self._lease_ttl_us
            heapq.heappush(self._visits, (visit_us, workspace))
            self._chores_due_us = min(self._chores_due_us, visit_us)
        return usage

    def _looked_at(
        self, workspace: str, plan: Plan, key: KeyScope | None, now_us: int
    ) -> InForce:
        usage = self._usages.get(workspace) or WorkspaceUsage()
        return usage.look(plan, key, now_us)

    def _keep_house(self, now_us: int, max_chores: int = CHORES_PER_ADMISSION) -> None:
        self._reclaim_abandoned(now_us)
        if now_us < self._chores_due_us:
            return
        visits, settled = self._visits, self._settled
        for _ in range(max_chores):
            if not visits or visits[0][0] > now_us:
                break
            self._visit(now_us)
        next_us = next(iter(settled.values()), NEVER_US)
        for _ in range(max_chores):
            if next_us > now_us:
                break
            settled.popitem(last=False)
            next_us = next(iter(settled.values()), NEVER_US)
        self._chores_due_us = min(next_us, visits[0][0] if visits else NEVER_US)

    def _reclaim_abandoned(self, now_us: int) -> None:
        if now_us < self._leases_due_us:
            return
        # Not limited in number: each was admitted once, and no decision may be taken
        # while a place or a reservation that is free still counts.
        due: list[tuple[int, str, _LeaseKey]] = []
        for key, lease in self._leases.items():
            if lease.expires_us > now_us:
                break
            due.append((lease.expires_us, key[1], key))
        # Of those that ended at one instant, by id: an order every ledger can keep.
        for expires_us, _, key in sorted(due):
            lease = self._leases.pop(key)
            lease.abandon()
            self._abandoned_total += 1
            if expires_us + ABANDONED_KEPT_US > now_us:
                self._abandoned[key] = lease
                usage = self._usages[key[0]]
                usage.owed_until_us = expires_us + ABANDONED_KEPT_US
        first = next(iter(self._leases.values()), None)
        self._leases_due_us = min(
            first.expires_us if first else NEVER_US, self._forget_abandoned(now_us)
        )

    def _forget_abandoned(self, now_us: int) -> int:
        """Those whose owner did not come back in time; when the next one is due."""
        while self._abandoned:
            key, lease = next(iter(self._abandoned.items()))
            kept_until_us = lease.expires_us + ABANDONED_KEPT_US
            if kept_until_us > now_us:
                return kept_until_us
            del self._abandoned[key]
        return NEVER_US

    def _visit(self, now_us: int) -> None:
        workspace = self._visits[0][1]
        usage = self._usages[workspace]
        is_awaited, soon_us = usage.is_awaited, now_us + self._lease_ttl_us
        again_us = soon_us if is_awaited else usage.idle_at_us()
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


def checked(reserve: Usage) -> Usage:
    """A reservation as it is charged; ValueError if it is none."""
    if reserve.requests < 0 or reserve.tokens < 0:
        raise ValueError("a reservation cannot be negative")
    return bounded(reserve, MAX_DEMAND)


def bounded(usage: Usage, most: int) -> Usage:
    """
    A usage no ledger has to be afraid of.

    An upstream's report may be absurd; it must neither pay the caller nor lock it out
    for longer than any limit could.
    """
    if 0 <= usage.requests <= most and 0 <= usage.tokens <= most:
        return usage
    return Usage(
        min(max(0, usage.requests), most),
        min(max(0, usage.tokens), most),
    )
