"""
From a call to a lease and back: asks the ledger, renews what is held, settles it once.

The ledger decides; this module keeps its promise that every lease is settled on every
way out, whatever was spent by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.auth import Principal
from gateway.demands import asked, budgeted, placeless
from gateway.errors import (
    StoreUnavailable,
)
from gateway.ids import new_id
from gateway.lease import Lease
from gateway.limit_headers import rejection_error
from gateway.renewing import keep_renewing
from gateway.request_bounds import capacities, check_bounds
from gateway.telemetry import definitions as d
from gateway.telemetry.metrics import Telemetry
from gateway.translation.port import TokenDemand
from gateway.translation.usage import TokenUsage
from policies.estimate import OutputEstimator, estimate_usage
from policies.futures import to_future
from policies.ledger import (
    NOTHING,
    Decision,
    Ledger,
    LedgerUnavailable,
    LimitState,
    Rejected,
    Usage,
)

logger = logging.getLogger(__name__)

# What a store that does not answer may add to a shutdown.
SETTLE_TIMEOUT_S: Final = 5.0


class Preview(msgspec.Struct, frozen=True):
    """What would become of a request, and what it would reserve."""

    reserve: Usage
    decision: Decision


class Admission:
    """Admits calls against their plan and looks after the leases they hold."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        estimator: OutputEstimator,
        telemetry: Telemetry,
        now_ms: Callable[[], int],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        `is_over` says that draining has ended: what is cancelled now, we cancelled.
        """
        self._ledger = ledger
        self._estimator = estimator
        self._telemetry = telemetry
        self._now_ms = now_ms
        self._is_over = is_over
        self._held: dict[str, Lease] = {}
        telemetry.followed.add_one(d.LEASES_HELD, lambda: len(self._held))
        telemetry.followed.add_one(d.LEASES_ABANDONED, lambda: ledger.abandoned_total)
        self._settlements: set[asyncio.Future[bool]] = set()

    async def admit(
        self,
        principal: Principal,
        model: str,
        demand: TokenDemand,
        lease_id: str | None = None,
        *,
        waits: bool = False,
    ) -> Lease:
        """
        A lease, to be held in a block; LimitExceeded if the plan has no room.

        `lease_id` names it where somebody else may have to find its charge. Who `waits`
        and asks again is counted as rejected only where waiting cannot help.
        """
        plan = principal.plan
        check_bounds(plan, demand)
        reserve = self._reservation(principal, model, demand)
        lease_id = lease_id or new_id()
        try:
            decision = await self._ledger.admit(asked(principal, reserve, lease_id))
        except LedgerUnavailable as error:
            # Undecided, so there is nothing to give back.
            raise store_unavailable(error) from error
        except BaseException:
            # Cancelled while the decision was on its way: it may have been a yes.
            self._release(principal.workspace, lease_id, NOTHING)
            raise
        if isinstance(decision, Rejected):
            if not waits or decision.reason == "too_large":
                self._telemetry.decided.note((plan.plan, principal.workspace, decision))
            raise rejection_error(decision, plan, now_ms=self._now_ms())
        self._telemetry.decided.note((plan.plan, principal.workspace, decision))
        lease = Lease(decision, principal, model, reserve, self._end, self._is_over)
        self._held[lease_id] = lease
        return lease

    def _end(self, lease: Lease) -> None:
        del self._held[lease.lease_id]
        usage, actual = None, lease.reserved
        try:
            usage = lease.usage
            actual = lease.charge_of(usage)
        except Exception:
            # A meter that fails must not keep the place taken: the reservation stands.
            logger.exception("reading a lease's meter failed")
        self._release(lease.workspace, lease.lease_id, actual)
        if usage is not None:
            plan, reserved_tokens = lease.plan.plan, lease.reserved.tokens
            self._telemetry.charged.note(
                (plan, lease.workspace, lease.model, usage, reserved_tokens)
            )

    async def void(self, workspace: str, lease_id: str) -> None:
        """Take back the charge of somebody who has died, whatever came of it."""
        await self._ledger.settle(workspace, lease_id, NOTHING)

    async def preview(
        self, principal: Principal, model: str, demand: TokenDemand
    ) -> Preview:
        """What `admit` would do now; charges nothing and holds nothing."""
        check_bounds(principal.plan, demand)
        reserve = self._reservation(principal, model, demand)
        return Preview(reserve, await self._preview(principal, reserve))

    async def spend(self, principal: Principal, usage: Usage) -> Decision:
        """
        Admit and settle at once, for whoever cannot say when a request ends.

        No place is held, so `concurrency` does not count, unless it is 0.
        """
        demand = placeless(principal, usage, new_id())
        try:
            decision = await self._ledger.admit(demand)
        except LedgerUnavailable as error:
            raise store_unavailable(error) from error
        except BaseException:
            self._release(principal.workspace, demand.lease_id, NOTHING)
            raise
        plan, workspace = principal.plan.plan, principal.workspace
        self._telemetry.decided.note((plan, workspace, decision))
        if not isinstance(decision, Rejected):
            self._release(workspace, demand.lease_id, usage)
        return decision

    async def charge(self, principal: Principal, usage: Usage) -> None:
        """Charge what was spent already, whatever the limits say."""
        demand = placeless(principal, usage, new_id())
        try:
            await self._ledger.adopt(demand)
        except LedgerUnavailable as error:
            raise store_unavailable(error) from error
        finally:
            self._release(principal.workspace, demand.lease_id, usage)

    async def charge_named(
        self, principal: Principal, usage: Usage, lease_id: str
    ) -> None:
        """
        Charge budgets alone, whatever they say, once for a lease id.

        For work in the background: rates and places are for who waits for an answer.
        The ledger knows the id until `end_charge`, or for an hour where that never
        comes, and for a ttl after.
        """
        demand = budgeted(principal, usage, lease_id)
        try:
            await self._ledger.adopt(demand)
        except LedgerUnavailable as error:
            raise store_unavailable(error) from error

    async def end_charge(self, workspace: str, usage: Usage, lease_id: str) -> None:
        """A charge that nobody will name again."""
        await self._ledger.settle(workspace, lease_id, usage)

    async def look_at_budgets(self, principal: Principal, usage: Usage) -> Decision:
        """What the budgets alone say to so much; charges nothing."""
        try:
            return await self._ledger.preview(budgeted(principal, usage, "preview"))
        except LedgerUnavailable as error:
            raise store_unavailable(error) from error

    async def look(self, principal: Principal, usage: Usage) -> Decision:
        """What `spend` would do now; charges nothing. A no refuses somebody, too."""
        try:
            decision = await self._ledger.preview(
                placeless(principal, usage, "preview")
            )
        except LedgerUnavailable as error:
            raise store_unavailable(error) from error
        if isinstance(decision, Rejected):
            plan, workspace = principal.plan.plan, principal.workspace
            self._telemetry.decided.note((plan, workspace, decision))
        return decision

    async def survey(self, principal: Principal) -> Decision:
        """
        Where the workspace and the key stand, and whether that is exact.

        The answer to a demand for nothing, because it says both of one moment.
        """
        return await self._preview(principal, NOTHING)

    async def _preview(self, principal: Principal, reserve: Usage) -> Decision:
        try:
            return await self._ledger.preview(asked(principal, reserve, "preview"))
        except LedgerUnavailable as error:
            raise store_unavailable(error) from error

    def _reservation(
        self, principal: Principal, model: str, demand: TokenDemand
    ) -> Usage:
        tokens_in, choices = demand.input_tokens, demand.choices
        if demand.max_output_tokens is not None:
            most = demand.max_output_tokens
            return estimate_usage(tokens_in, most, choices=choices)
        plan, key = principal.plan, principal.key_scope
        usual = self._estimator.expect(principal.workspace, model, plan)
        guess = estimate_usage(tokens_in, usual, choices=choices)
        # A guess of ours must not make a request larger than its limits can ever hold:
        # the caller said nothing that it could take back.
        limits = (*plan.limits, *(key.limits.limits if key else ()))
        smallest = min(capacities(limits, "tokens"), default=guess.tokens)
        return Usage(1, min(guess.tokens, max(smallest, tokens_in)))

    def _release(self, workspace: str, lease_id: str, actual: Usage) -> None:
        # Not awaited: whoever gives a lease back is often being cancelled, and an await
        # here could be cut off by a second cancellation, with the place taken until the
        # lease's ttl. Nor does the client wait for it.
        begun = self._ledger.settle_soon(workspace, lease_id, actual)
        if begun is None:
            return
        settlement = to_future(begun)
        self._settlements.add(settlement)
        settlement.add_done_callback(self._end_settlement)

    def _end_settlement(self, settlement: asyncio.Future[bool]) -> None:
        self._settlements.discard(settlement)
        if not settlement.cancelled() and settlement.exception() is not None:
            logger.error("settling a lease failed", exc_info=settlement.exception())

    async def finish_settling(self) -> None:
        """Wait for the settlements under way, before the ledger is closed."""
        if self._settlements:
            await asyncio.wait(list(self._settlements), timeout=SETTLE_TIMEOUT_S)

    def learn(
        self, principal: Principal, model: str, demand: TokenDemand, usage: TokenUsage
    ) -> None:
        """Remember what a complete answer cost, for callers that do not say."""
        if demand.max_output_tokens is None:
            # Answers that were cut to a caller's bound say nothing of the others.
            self._estimator.learn(principal.workspace, model, usage.output_tokens)

    async def inspect(self, principal: Principal) -> tuple[LimitState, ...]:
        """Where workspace and key stand, as far as is known now; charges nothing."""
        try:
            return await self._ledger.inspect(
                principal.workspace, principal.plan, principal.key_scope
            )
        except LedgerUnavailable:
            # For the headers of an answer that needs no decision: it goes without.
            return ()

    @property
    def held(self) -> int:
        return len(self._held)

    async def keep_alive(self) -> None:
        """Renew every held lease until cancelled."""
        ttl_ms = self._ledger.lease_ttl_ms
        await keep_renewing(self._held.values, self._renew, ttl_ms=ttl_ms)

    async def _renew(self, lease: Lease) -> None:
        try:
            is_held = await self._ledger.renew(
                lease.workspace, lease.lease_id, lease.actual.tokens
            )
        except Exception:
            # There are more renewals than a lease needs; the next one may succeed.
            logger.exception("renewing a lease failed")
            return
        if is_held:
            self._telemetry.lease_renewed()
        elif lease.lease_id in self._held:
            # The request goes on: its tokens are already being spent. What it used
            # beyond its last progress is not charged, and an operator should know.
            self._telemetry.lease_lost()
            facts = {"lease_id": lease.lease_id, "workspace": lease.workspace}
            logger.warning("lease lost", extra={"facts": facts})


def store_unavailable(error: LedgerUnavailable) -> StoreUnavailable:
    """What the client is told while its limits cannot be checked."""
    wait_s = error.retry_after_ms / 1000
    return StoreUnavailable(
        "Your plan's limits cannot be checked at the moment."
        f" Please try again in {wait_s:g}s.",
        retry_after_ms=error.retry_after_ms,
    )
