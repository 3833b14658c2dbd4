"""
Decisions of this replica alone: its share of each plan, kept by a ledger of its own.

What it counts is good for one episode: an outage, or some seconds of a store that
fails now and then. A workspace joins an episode at its first decision, with what is
then known of it: how much was used, and which leases this replica still holds.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from policies.dimensions import dimension_of
from policies.ledger import (
    NOTHING,
    Admitted,
    Decision,
    Demand,
    KeyScope,
    LedgerUnavailable,
    LimitState,
    Rejected,
    Usage,
)
from policies.memory_ledger import MemoryLedger
from policies.meters import units_of
from policies.outage.last_known import LastKnown, Standing
from policies.outage.running_leases import RunningLease, RunningLeases
from policies.outage.shares import (
    capacity_of,
    share_of,
    share_of_key,
    used_after,
    used_of_share,
)
from policies.plans import Concurrency, KeyLimits, Limit, Plan, Quota, Rate


class LocalShare:
    """
    A memory ledger under shares.

    A lease that the store's last figures include is taken in at no charge, so that its
    reservation counts once; what it turns out to cost above that is charged then, and
    what below is not given back before the store returns.
    """

    def __init__(
        self,
        *,
        clock_us: Callable[[], int],
        lease_ttl_ms: int,
        running: RunningLeases,
        last_known: LastKnown,
        count_replicas: Callable[[], int],
        wait_ms: Callable[[], int],
    ) -> None:
        """`wait_ms` says when it is worth asking again what a share cannot decide."""
        self._clock_us = clock_us
        self._lease_ttl_ms = lease_ttl_ms
        self._running = running
        self._last_known = last_known
        self._count_replicas = count_replicas
        self._wait_ms = wait_ms
        self._numbers = itertools.count(1)
        self._episode = 0
        self.forget()

    def __len__(self) -> int:
        """How many workspaces and keys have joined this episode and are remembered."""
        return len(self._joined)

    def forget(self) -> None:
        """End the episode: the next decision starts from what is known by then."""
        self._episode += 1
        self._began_us: int | None = None
        self._ledger = MemoryLedger(self._clock_us, self._lease_ttl_ms)
        # Of which age the standing was that a workspace or a key joined with.
        # Bounded as what is known is; who is forgotten here joins once more, by what is
        # known then, which adds nothing that is counted already.
        self._joined: OrderedDict[tuple[str, str], int] = OrderedDict()
        # By how much more is used of a limit than the share stands at, and until when.
        self._elsewhere: dict[tuple[str, str], tuple[int, int]] = {}

    def forget_if_begun_before(self, instant_us: int) -> None:
        if self._began_us is not None and self._began_us < instant_us:
            self.forget()

    async def admit(self, demand: Demand) -> Decision:
        """Decide by the share; LedgerUnavailable where only the whole plan could."""
        share = await self._join(demand)
        return self._tell_truth(demand, await self._ledger.admit(share))

    async def preview(self, demand: Demand) -> Decision:
        """What `admit` would decide now."""
        share = await self._join(demand)
        return self._tell_truth(demand, await self._ledger.preview(share))

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None
    ) -> tuple[LimitState, ...]:
        """Where this replica's share stands."""
        share = await self._join(
            Demand(
                workspace=workspace, plan=plan, lease_id="", reserve=NOTHING, key=key
            )
        )
        return await self._ledger.inspect(workspace, share.plan, share.key)

    def include(self, lease: RunningLease) -> None:
        """Note that this lease was admitted by the share, at its whole reservation."""
        if lease.episode != self._episode:
            lease.episode = self._episode
            lease.share_reserve, lease.base = lease.demand.reserve, NOTHING

    def holds(self, lease: RunningLease) -> bool:
        """Whether this episode's share counts the lease."""
        return lease.episode == self._episode

    async def take_in(self, lease: RunningLease) -> None:
        """Let a lease that runs already take a place of this replica's share."""
        if lease.episode == self._episode:
            return
        lease.episode = self._episode
        standing = self._last_known.find(lease.demand.workspace)
        lease.base = lease.counted_at(standing.at_us) if standing else NOTHING
        is_counted = lease.base != NOTHING
        lease.share_reserve = NOTHING if is_counted else lease.demand.reserve
        await self._ledger.adopt(
            msgspec.structs.replace(lease.demand, reserve=lease.share_reserve)
        )

    async def renew(self, lease: RunningLease, tokens: int) -> None:
        if lease.episode == self._episode:
            demand = lease.demand
            progress = lease.on_share(Usage(0, tokens)).tokens if tokens > 0 else 0
            await self._ledger.renew(demand.workspace, demand.lease_id, progress)

    async def settle(self, lease: RunningLease, actual: Usage) -> None:
        if lease.episode == self._episode:
            demand, used = lease.demand, lease.on_share(actual)
            await self._ledger.settle(demand.workspace, demand.lease_id, used)

    async def _join(self, demand: Demand) -> Demand:
        """The demand under this replica's share, after making up for what it missed."""
        replicas = self._count_replicas()
        key = demand.key
        share = msgspec.structs.replace(
            demand,
            plan=share_of(demand.plan, replicas),
            key=key and KeyScope(key.id, share_of_key(key.limits, replicas)),
        )
        if self._began_us is None:
            self._began_us = self._clock_us()
        if self._is_news(demand.workspace, ""):
            await self._presume(demand.workspace, None, demand.plan, share.plan)
            for lease in self._running.of(demand.workspace):
                await self.take_in(lease)
        if key and share.key and self._is_news(demand.workspace, key.id):
            await self._presume(demand.workspace, key.id, key.limits, share.key.limits)
        return share

    def _is_news(self, workspace: str, scope_id: str) -> bool:
        standing = self._last_known.find(workspace, scope_id)
        at_us = standing.at_us if standing else 0
        if self._joined.get((workspace, scope_id), -1) >= at_us:
            return False
        self._joined[workspace, scope_id] = at_us
        self._joined.move_to_end((workspace, scope_id))
        if len(self._joined) > self._last_known.max_standings:
            self._joined.popitem(last=False)
        return True

    async def _presume(
        self,
        workspace: str,
        key_id: str | None,
        whole: Plan | KeyLimits,
        share: Plan | KeyLimits,
    ) -> None:
        """Charge the share what it must not admit because it was used before."""
        standing = self._last_known.find(workspace, key_id or "")
        if standing is None:
            return
        known = {
            dimension_of(state.limit): state
            for state in standing.states
            if state.is_of_key == (key_id is not None)
        }
        for limit, part in zip(whole.limits, share.limits, strict=True):
            state = known.get(dimension_of(limit))
            if state is not None and not isinstance(part, Concurrency):
                used = self._used_now(standing, state)
                await self._charge(workspace, key_id, limit, part, used)

    def _used_now(self, standing: Standing, state: LimitState) -> int:
        age_ms = (self._clock_us() - standing.at_us) // 1000
        return used_after(state, units_of(state.limit, standing.more), age_ms)

    async def _charge(
        self,
        workspace: str,
        key_id: str | None,
        whole: Limit,
        part: Rate | Quota,
        used: int,
    ) -> None:
        """Bring one limit of the share to what it has to stand at, by one lease."""
        alone = _limits_of(part)
        plan = Plan(plan="presumed")
        key = None
        if key_id is None:
            plan = Plan(plan="presumed", rates=alone.rates, quotas=alone.quotas)
        else:
            key = KeyScope(key_id, alone)
        state = (await self._ledger.inspect(workspace, plan, key))[0]
        stands_at = used_of_share(whole, used, self._count_replicas())
        missing = max(0, stands_at - state.used)
        if isinstance(part, Quota):
            until_us = self._clock_us() + state.reset_after_ms * 1000
            name = dimension_of(whole, key_id or "")
            # Whoever joins once more has admitted by the share itself since then.
            before, ends_us = self._elsewhere.get((workspace, name), (0, 0))
            before = before if ends_us > self._clock_us() else 0
            elsewhere = max(before, used - state.used - missing)
            self._elsewhere[workspace, name] = (elsewhere, until_us)
        if missing:
            units = Usage(0, missing) if part.of == "tokens" else Usage(missing, 0)
            lease_id = f"presumed-{next(self._numbers)}"
            await self._ledger.adopt(
                Demand(
                    workspace=workspace,
                    plan=plan,
                    lease_id=lease_id,
                    reserve=units,
                    key=key,
                )
            )
            await self._ledger.settle(workspace, lease_id, units)

    def _tell_truth(self, demand: Demand, decision: Decision) -> Decision:
        """
        A share that is spent, or too small, says nothing of the plan it is part of.

        Clients take `too_large` and `quota` for final, so they are said only where the
        whole plan would say them too, by what is known.
        """
        if isinstance(decision, Admitted):
            return msgspec.structs.replace(decision, is_exact=False)
        # No place at all is a suspended workspace, and no share has fewer than one.
        is_of_places = isinstance(decision.binding.limit, Concurrency)
        if is_of_places or decision.reason not in ("too_large", "quota"):
            return msgspec.structs.replace(decision, is_exact=False)
        key = demand.key
        wholes = (*demand.plan.limits, *(key.limits.limits if key else ()))
        pairs = [
            (limit, self._on_whole(demand, limit, state))
            for limit, state in zip(wholes, decision.states, strict=True)
            if not limit.shadow and not isinstance(limit, Concurrency)
        ]
        for limit, state in pairs:
            if units_of(limit, demand.reserve) > capacity_of(limit):
                return _refuse(demand, decision, state, None)
        for limit, state in pairs:
            units = units_of(limit, demand.reserve)
            if isinstance(limit, Quota) and units and state.used + units > limit.limit:
                return _refuse(demand, decision, state, state.reset_after_ms)
        raise LedgerUnavailable(self._wait_ms())

    def _on_whole(self, demand: Demand, limit: Limit, state: LimitState) -> LimitState:
        """What is known of the whole limit, from where its share stands."""
        scope_id = demand.key.id if demand.key and state.is_of_key else ""
        name = dimension_of(limit, scope_id)
        more, until_us = self._elsewhere.get((demand.workspace, name), (0, 0))
        used = state.used + (more if until_us > self._clock_us() else 0)
        return msgspec.structs.replace(
            state, limit=limit, capacity=capacity_of(limit), used=used
        )


def _limits_of(part: Rate | Quota) -> KeyLimits:
    return (
        KeyLimits(rates=(part,))
        if isinstance(part, Rate)
        else KeyLimits(quotas=(part,))
    )


def _refuse(
    demand: Demand, decision: Rejected, binding: LimitState, retry_after_ms: int | None
) -> Rejected:
    return Rejected(
        reason="too_large" if retry_after_ms is None else "quota",
        binding=binding,
        requested=units_of(binding.limit, demand.reserve),
        retry_after_ms=retry_after_ms,
        states=decision.states,
        is_exact=False,
    )
