"""
Everything one workspace has used and holds, in memory, and what a demand meets there.

Meters are kept by dimension (what kind of limit, of what, per what), apart from the
plan that is in force: usage survives a plan change in either direction.
"""

from __future__ import annotations

from typing import TypeAlias

from policies.ledger import LimitState, Rejected, RejectionReason, Usage
from policies.meters import NEVER_MS, Account, Meter, QuotaMeter, RateMeter
from policies.plans import Concurrency, Limit, Plan, Quota, Rate

_Dimension: TypeAlias = tuple[type[Limit], str, str]


class HeldLease:
    """A lease as its ledger keeps it."""

    __slots__ = (
        "accounts",
        "expires_us",
        "is_beyond_shadow",
        "progress_tokens",
        "reserve",
        "shadowed",
        "usage",
    )

    def __init__(
        self, usage: WorkspaceUsage, reserve: Usage, trial: Trial, expires_us: int
    ) -> None:
        self.usage = usage
        self.reserve = reserve
        self.expires_us = expires_us
        # 0 is no report: nothing that has reached an upstream is free.
        self.progress_tokens = 0
        self.accounts: list[Account] = []
        self.shadowed = tuple(trial.shadowed)
        # Runs although a concurrency limit in shadow would have refused it.
        self.is_beyond_shadow = trial.is_beyond_shadow

    def settle(self, actual: Usage, now_us: int) -> None:
        """Correct every account that was charged, and give the place back."""
        more_requests = actual.requests - self.reserve.requests
        more_tokens = actual.tokens - self.reserve.tokens
        for account in self.accounts:
            units = more_tokens if account.counts_tokens else more_requests
            if units:
                account.adjust(units, now_us)
        self.usage.held -= 1
        self.usage.held_beyond_shadow -= self.is_beyond_shadow

    def abandon(self) -> None:
        """Settle at the last progress, or at the reservation if there was none."""
        tokens = self.progress_tokens or self.reserve.tokens
        # As of the instant it ended, which may be long past: what it tops up has been
        # paid back by refill since then.
        self.settle(Usage(self.reserve.requests, tokens), self.expires_us)


class Trial:
    """How a demand fares against every limit, before anything is charged."""

    __slots__ = ("fitting", "is_beyond_shadow", "shadowed", "violated")

    def __init__(self) -> None:
        self.fitting: list[Meter] = []
        self.shadowed: list[Limit] = []
        self.is_beyond_shadow = False
        # Each with the wait until it would admit. None is concurrency: nobody knows its
        # wait, and counted as 0 it binds only where no other limit does.
        self.violated: list[tuple[int, Meter | None]] = []


class WorkspaceUsage:
    """The meters and the number of leases of one workspace."""

    __slots__ = (
        "_concurrency",
        "_meters",
        "_plan",
        "_running",
        "held",
        "held_beyond_shadow",
    )

    def __init__(self) -> None:
        self.held = 0
        self.held_beyond_shadow = 0
        self._plan: Plan | None = None
        self._concurrency: Concurrency | None = None
        self._meters: dict[_Dimension, Meter] = {}
        # The meters of the plan in force, in the order its limits are reported.
        self._running: list[Meter] = []

    def copy(self) -> WorkspaceUsage:
        """For a look under another plan, without leaving a trace here."""
        copied = WorkspaceUsage()
        copied.held = self.held
        copied.held_beyond_shadow = self.held_beyond_shadow
        copied._meters = {key: meter.copy() for key, meter in self._meters.items()}
        return copied

    def follow(self, plan: Plan, now_us: int) -> None:
        """Put a plan in force; usage in each of its dimensions is kept."""
        if plan is self._plan:
            return
        self._plan = plan
        self._concurrency = plan.concurrency
        self._running = [
            *(self._follow_rate(rate, now_us) for rate in plan.rates),
            *(self._follow_quota(quota, now_us) for quota in plan.quotas),
        ]

    def try_out(self, reserve: Usage, now_us: int) -> Trial:
        """Ask every limit; charges nothing."""
        trial = Trial()
        for meter in self._running:
            units = reserve.tokens if meter.counts_tokens else reserve.requests
            wait_ms = meter.wait_ms(units, now_us)
            if wait_ms == 0:
                trial.fitting.append(meter)
            elif meter.limit.shadow:
                trial.shadowed.append(meter.limit)
            else:
                trial.violated.append((wait_ms, meter))
        limit = self._concurrency
        if limit is not None and self._count_held(limit) >= limit.limit:
            if limit.shadow:
                trial.shadowed.append(limit)
                trial.is_beyond_shadow = True
            else:
                trial.violated.append((0, None))
        return trial

    def charge(
        self, reserve: Usage, trial: Trial, now_us: int, end_us: int
    ) -> HeldLease:
        """Spend what fitted, and take a place until `end_us`."""
        lease = HeldLease(self, reserve, trial, end_us)
        for meter in trial.fitting:
            units = reserve.tokens if meter.counts_tokens else reserve.requests
            lease.accounts.append(meter.charge(units, now_us))
        self.held += 1
        self.held_beyond_shadow += trial.is_beyond_shadow
        return lease

    def reject(self, reserve: Usage, trial: Trial, now_us: int) -> Rejected:
        """Say which of the violated limits binds longest; the first one of equals."""
        wait_ms, meter = max(trial.violated, key=lambda violation: violation[0])
        states = self.states(now_us)
        reason: RejectionReason
        if meter is None:
            reason, requested, binding = "concurrency", 1, states[-1]
        else:
            reason = "rate" if isinstance(meter, RateMeter) else "quota"
            requested = reserve.tokens if meter.counts_tokens else reserve.requests
            binding = states[self._running.index(meter)]
        if wait_ms >= NEVER_MS:
            reason = "too_large"
        return Rejected(
            reason=reason,
            binding=binding,
            requested=requested,
            retry_after_ms=wait_ms if reason in ("rate", "quota") else None,
            states=states,
        )

    def states(self, now_us: int) -> tuple[LimitState, ...]:
        states = [meter.state(now_us) for meter in self._running]
        limit = self._concurrency
        if limit is not None:
            states.append(
                LimitState(
                    limit=limit,
                    capacity=limit.limit,
                    used=self._count_held(limit),
                    reset_after_ms=0,
                )
            )
        return tuple(states)

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting the workspace."""
        return max((meter.idle_at_us() for meter in self._meters.values()), default=0)

    def _count_held(self, limit: Concurrency) -> int:
        # In shadow, a lease that enforcement would have refused takes no place; once
        # the limit is enforced, every lease that runs does.
        return self.held - self.held_beyond_shadow if limit.shadow else self.held

    def _follow_rate(self, limit: Rate, now_us: int) -> Meter:
        dimension = (Rate, limit.of, limit.per)
        meter = self._meters.get(dimension)
        if isinstance(meter, RateMeter):
            meter.follow(limit, now_us)
            return meter
        return self._meters.setdefault(dimension, RateMeter(limit))

    def _follow_quota(self, limit: Quota, now_us: int) -> Meter:
        dimension = (Quota, limit.of, limit.per)
        meter = self._meters.get(dimension)
        if isinstance(meter, QuotaMeter):
            meter.follow(limit, now_us)
            return meter
        return self._meters.setdefault(dimension, QuotaMeter(limit, now_us))
