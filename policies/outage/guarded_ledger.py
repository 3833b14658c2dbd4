"""
The ledger while Redis may go away: exact as long as it answers, bounded otherwise.

Nothing on a request's path waits for a store that is known to be away, and none waits
longer than one store time-out to find out. What was decided meanwhile is told to the
store when it returns. `docs/store-failure.md` says what each plan may count on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, TypeAlias

from policies.ledger import (
    NOTHING,
    Admitted,
    Decision,
    Demand,
    KeyScope,
    LeaseSettled,
    Ledger,
    LedgerUnavailable,
    LimitState,
    Usage,
)
from policies.outage.breaker import Breaker
from policies.outage.courier import Courier
from policies.outage.journal import MAX_ENTRIES, Journal
from policies.outage.last_known import MAX_STANDINGS, LastKnown
from policies.outage.local_share import LocalShare
from policies.outage.prompt_settler import PromptSettler
from policies.outage.replicas import Replicas
from policies.outage.running_leases import RunningLease, RunningLeases
from policies.outage.settlement import Settlement
from policies.outage.store_health import Answered, StoreHealth, ignore_answer
from policies.outage.store_watch import StoreWatch
from policies.plans import Plan
from policies.store.errors import StoreUnavailable
from policies.store.store import Store

logger = logging.getLogger(__name__)

# How long an owner is waited for that neither renews nor settles; as every ledger does.
UNSEEN_US: Final = 3600 * 1_000_000
# What a store that does not answer may add to a shutdown.
CLOSE_TIMEOUT_S: Final = 5.0

# A store that fails now and then grants one share in this time, however often it fails.
EPISODE_US: Final = 30 * 1_000_000
# What decided a request without the store, and how.
Stand: TypeAlias = Literal["share", "open", "closed"]
Outcome: TypeAlias = Literal[
    "admitted",
    "rejected",  # by a limit of the share
    "undecided",  # for want of a store
]


class GuardedLedger:
    """
    A shared ledger, and a share of each plan for while it is away.

    Whoever admits or adopts a lease here renews and settles it here.
    """

    def __init__(
        self,
        shared: Ledger,
        *,
        store: Store,
        replicas: Replicas,
        clock_us: Callable[[], int],
        min_replicas: int = 1,
        breaker: Breaker | None = None,
        answered: Answered = ignore_answer,
        max_journal: int = MAX_ENTRIES,
        max_standings: int = MAX_STANDINGS,
    ) -> None:
        """
        `min_replicas` divides the plans of a replica that starts while the store is
        away, and of any that counted fewer. `answered` hears of each call's reply.
        """
        self._shared = shared
        self._clock_us = clock_us
        self._replicas = replicas
        self._min_replicas = min_replicas
        self._running = RunningLeases()
        self._last_known = LastKnown(max_standings)
        # What became of requests while the store was away; totals since the start.
        self.decided: Counter[tuple[Stand, Outcome]] = Counter()
        self.journal = Journal(clock_us, max_entries=max_journal)
        self.health = StoreHealth(clock_us, breaker or Breaker(), answered)
        self.courier = Courier(
            shared, health=self.health, running=self._running, clock_us=clock_us
        )
        self._prompt = PromptSettler(
            shared,
            health=self.health,
            journal=self.journal,
            hand_in=self._hand_in,
            clock_us=clock_us,
        )
        self._share = LocalShare(
            clock_us=clock_us,
            lease_ttl_ms=shared.lease_ttl_ms,
            running=self._running,
            last_known=self._last_known,
            count_replicas=self.count_replicas,
            wait_ms=self.health.wait_ms,
        )
        self._watch = StoreWatch(
            store,
            health=self.health,
            replicas=replicas,
            courier=self.courier,
            journal=self.journal,
            clock_us=clock_us,
            returned=self._share.forget,
            sweep=self._sweep,
        )

    @property
    def lease_ttl_ms(self) -> int:
        return self._shared.lease_ttl_ms

    @property
    def abandoned_total(self) -> int:
        return self._shared.abandoned_total

    def count_replicas(self) -> int:
        """What plans are divided by while the store is away."""
        return max(1, self._min_replicas, self._replicas.count)

    @property
    def share_size(self) -> int:
        """How many workspaces and keys the share remembers."""
        return len(self._share)

    def start(self) -> None:
        """Begin to watch the store; `aclose` ends it."""
        self._watch.start()

    async def admit(self, demand: Demand) -> Decision:
        """
        Decide exactly, or as the plan says for a store that is away.

        Raises LedgerUnavailable where neither can be.
        """
        if not self.health.is_closed:
            return await self._admit_alone(demand, is_maybe_held=False)
        lease = self._running.find(demand.workspace, demand.lease_id)
        if lease is not None and not lease.is_known and not await self._tell(lease):
            # What a share admitted is not decided anew when it is repeated.
            return await self._admit_alone(demand, is_maybe_held=True)
        asked_us = self._clock_us()
        try:
            decision = await self._shared.admit(demand)
        except StoreUnavailable as error:
            self.health.failed(error, asked_us=asked_us)
            return await self._admit_alone(demand, is_maybe_held=error.is_ambiguous)
        except asyncio.CancelledError:
            # It may have been a yes.
            self._withdraw(demand)
            raise
        self.health.succeeded(asked_us=asked_us, call="admit")
        self._last_known.note(demand, decision.states, asked_us)
        if isinstance(decision, Admitted):
            self._hold(demand, asked_us).confirm(asked_us)
        return decision

    async def adopt(self, demand: Demand, age_ms: int = 0) -> bool:
        """Hold a lease that was admitted elsewhere; the store hears of it in time."""
        now_us = self._clock_us()
        lease = self._hold(demand, now_us - max(0, age_ms) * 1000)
        if not self.health.is_closed:
            await self._share.take_in(lease)
            return True
        try:
            is_running = await self.courier.tell(lease)
        except StoreUnavailable:
            return True
        if not is_running:
            self._running.pop(demand.workspace, demand.lease_id)
        return is_running

    async def preview(self, demand: Demand) -> Decision:
        """What `admit` would decide now."""
        if self.health.is_closed:
            asked_us = self._clock_us()
            try:
                decision = await self._shared.preview(demand)
            except StoreUnavailable as error:
                self.health.failed(error, asked_us=asked_us)
            else:
                self.health.succeeded(asked_us=asked_us)
                self._last_known.note(demand, decision.states, asked_us)
                return decision
        self._begin_episode()
        match demand.plan.on_store_failure:
            case "closed":
                raise LedgerUnavailable(self.health.wait_ms())
            case "open":
                return _unmetered(demand)
            case "share":
                return await self._share.preview(demand)

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        """Where the workspace stands; while the store is away, where its share does."""
        if self.health.is_closed:
            asked_us = self._clock_us()
            try:
                states = await self._shared.inspect(workspace, plan, key)
            except StoreUnavailable as error:
                self.health.failed(error, asked_us=asked_us)
            else:
                self.health.succeeded(asked_us=asked_us)
                return states
        self._begin_episode()
        match plan.on_store_failure:
            case "closed":
                raise LedgerUnavailable(self.health.wait_ms())
            case "open":
                return ()
            case "share":
                return await self._share.inspect(workspace, plan, key)

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """Keep a lease alive; one that runs here lives on while the store is away."""
        lease = self._running.find(workspace, lease_id)
        if lease is not None:
            lease.seen_us = self._clock_us()
            await self._share.renew(lease, tokens)
        if not self.health.is_closed:
            return lease is not None
        try:
            return await self.courier.renew(workspace, lease_id, tokens)
        except StoreUnavailable:
            return lease is not None

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        """
        Settle now, or keep the settlement until the store takes it, which is True too.

        Waits one store time-out at most, and once called is not lost by cancelling it.
        """
        lease = self._running.pop(workspace, lease_id)
        if lease is None:
            return await self._settle_stranger(workspace, lease_id, actual)
        self._last_known.correct(lease, actual)
        await self._share.settle(lease, actual)
        settlement = Settlement.of(lease, actual)
        if settlement.is_unheard_of and actual == NOTHING:
            return True
        return await self._hand_in(settlement)

    def settle_soon(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> asyncio.Future[bool] | None:
        """As `settle`; without a task where the store is there and holds the lease."""
        lease = self._running.find(workspace, lease_id)
        if (
            lease is None
            or lease.known_us is None
            or not self.health.is_closed
            or self._share.holds(lease)
        ):
            return asyncio.ensure_future(self.settle(workspace, lease_id, actual))
        self._running.pop(workspace, lease_id)
        self._last_known.correct(lease, actual)
        return self._prompt.begin(lease, actual)

    async def aclose(self) -> None:
        """Send what is due, within a deadline, and be counted as a replica no more."""
        try:
            await self._watch.stop()
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self.courier.send_all(self.journal)
            with suppress(StoreUnavailable):
                await self._replicas.leave()
        finally:
            lost = self.journal.give_up()
            if lost:
                logger.error(
                    "closed before the store took every settlement",
                    extra={"facts": {"lost": lost}},
                )
            await self._shared.aclose()

    def status(self) -> dict[str, str | int | float | bool]:
        """For an operator who asks whether limits are exact, and if not why."""
        breaker = self.health.breaker
        return {
            "is_exact": self.health.is_exact,
            "breaker": breaker.state,
            "reason": self.health.reason,
            "away_s": round(breaker.open_for_us(self._clock_us()) / 1e6, 3),
            "replicas": self.count_replicas(),
            "journal_depth": self.journal.depth,
            "journal_oldest_s": round(self.journal.oldest_age_s, 3),
        }

    async def _admit_alone(self, demand: Demand, *, is_maybe_held: bool) -> Decision:
        try:
            decision = await self._decide_alone(demand)
        except (LedgerUnavailable, LeaseSettled):
            if is_maybe_held:
                self._withdraw(demand)
            raise
        if isinstance(decision, Admitted):
            lease = self._hold(demand, self._clock_us())
            if is_maybe_held and lease.confirmed_us is None:
                lease.confirmed_us = self._clock_us()
            if demand.plan.on_store_failure == "share":
                self._share.include(lease)
        elif is_maybe_held:
            self._withdraw(demand)
        return decision

    async def _decide_alone(self, demand: Demand) -> Decision:
        self._begin_episode()
        outcome: Outcome = "undecided"
        try:
            decision = await self._stand_in(demand)
            outcome = "admitted" if isinstance(decision, Admitted) else "rejected"
            return decision
        finally:
            self.decided[demand.plan.on_store_failure, outcome] += 1

    async def _stand_in(self, demand: Demand) -> Decision:
        match demand.plan.on_store_failure:
            case "closed":
                raise LedgerUnavailable(self.health.wait_ms())
            case "open":
                return _unmetered(demand)
            case "share":
                return await self._share.admit(demand)

    def _begin_episode(self) -> None:
        if self.health.is_closed:
            self._share.forget_if_begun_before(self._clock_us() - EPISODE_US)

    def _hold(self, demand: Demand, admitted_us: int) -> RunningLease:
        lease = self._running.find(demand.workspace, demand.lease_id)
        if lease is None:
            lease = RunningLease(demand, admitted_us)
            self._running.add(lease)
        lease.seen_us = self._clock_us()
        return lease

    def _withdraw(self, demand: Demand) -> None:
        """Take back an admission nobody will use, which the store may have made."""
        if self._running.find(demand.workspace, demand.lease_id) is None:
            settlement = Settlement(demand.workspace, demand.lease_id, NOTHING)
            settlement.maybe_held_us = self._clock_us()
            self.journal.put(settlement)

    async def _tell(self, lease: RunningLease) -> bool:
        """Tell of a lease that a share admitted; False if the store could not be."""
        try:
            await self.courier.tell(lease)
        except StoreUnavailable:
            return False
        return True

    async def _settle_stranger(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> bool:
        """A lease that was not admitted here, or has been settled."""
        if (workspace, lease_id) in self.journal:
            return False
        if not self.health.is_closed and actual == NOTHING:
            return False
        return await self._hand_in(Settlement(workspace, lease_id, actual))

    async def _hand_in(self, settlement: Settlement) -> bool:
        if not self.health.is_closed:
            self.journal.put(settlement)
            return True
        try:
            return await self.courier.send(settlement)
        except StoreUnavailable:
            self.journal.put(settlement)
            return True
        except asyncio.CancelledError:
            self.journal.put(settlement)
            raise

    def _sweep(self) -> None:
        self._running.sweep(self._clock_us() - UNSEEN_US)


def _unmetered(demand: Demand) -> Admitted:
    return Admitted(lease_id=demand.lease_id, states=(), is_exact=False)
