"""
Where limits stand, as the bodies of `/v1/limits` and `/v1/limits/preview`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, assert_never

import msgspec

from gateway.envelope import ErrorBody, to_error_body
from gateway.limit_headers import StandIn, rejection_error, resets_at, stand_in
from policies.ledger import Decision, LimitState, Rejected, RejectionReason, Usage
from policies.plans import Concurrency, Limit, Plan, Quota, Rate, Unit

Whose: TypeAlias = Literal["workspace", "key"]
Kind: TypeAlias = Literal["rate", "quota", "concurrency"]
Period: TypeAlias = Literal["second", "minute", "hour", "day", "month"]


class LimitReport(msgspec.Struct, frozen=True, kw_only=True):
    """One limit: what it is, and how much of it is left."""

    dimension: str
    whose: Whose
    kind: Kind
    of: Unit | Literal["leases"]
    per: Period | None
    limit: int
    capacity: int
    used: int
    reserved: int
    remaining: int
    shadow: bool
    reset_after_ms: int | None
    resets_at: int | None


class LimitsReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="limits"
):
    """Every limit a key lives under."""

    workspace: str
    plan: str
    title: str
    store: Literal["exact"] | StandIn
    binds_next: str | None
    limits: tuple[LimitReport, ...]


class PreviewReport(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="object", tag="limits.preview"
):
    """What would become of one request, sent now."""

    would_pass: bool
    reason: RejectionReason | None = None
    # None where waiting cannot help, and where nobody knows for how long.
    retry_after_ms: int | None = None
    reserve: Usage
    binding: LimitReport | None = None
    error: ErrorBody | None = None
    limits: tuple[LimitReport, ...]


def report_limits(
    workspace: str, plan: Plan, decision: Decision, *, now_ms: int
) -> LimitsReport:
    """The body of `GET /v1/limits`; of the decision, only what it looked at."""
    return LimitsReport(
        workspace=workspace,
        plan=plan.plan,
        title=plan.title,
        store="exact" if decision.is_exact else stand_in(plan),
        binds_next=find_next_binding(decision.states),
        limits=_report_all(decision.states, now_ms),
    )


def report_preview(
    plan: Plan, reserve: Usage, decision: Decision, *, now_ms: int
) -> PreviewReport:
    """The body of `POST /v1/limits/preview`."""
    limits = _report_all(decision.states, now_ms)
    if not isinstance(decision, Rejected):
        return PreviewReport(would_pass=True, reserve=reserve, limits=limits)
    error = rejection_error(decision, plan, now_ms=now_ms)
    return PreviewReport(
        would_pass=False,
        reason=decision.reason,
        retry_after_ms=decision.retry_after_ms,
        reserve=reserve,
        binding=_report(decision.binding, now_ms),
        error=to_error_body(error),
        limits=limits,
    )


def find_next_binding(states: Iterable[LimitState]) -> str | None:
    """The enforced limit with the smallest share left; of equals, the first."""
    enforced = [state for state in states if not state.limit.shadow]
    tightest = min(enforced, key=_share_left, default=None)
    return None if tightest is None else tightest.name


def _share_left(state: LimitState) -> float:
    # A capacity of 0 is a suspended workspace: nothing is left of it.
    return state.remaining / state.capacity if state.capacity else 0.0


def _report_all(states: Iterable[LimitState], now_ms: int) -> tuple[LimitReport, ...]:
    return tuple(_report(state, now_ms) for state in states)


def _report(state: LimitState, now_ms: int) -> LimitReport:
    limit = state.limit
    kind, of, per = _form_of(limit)
    return LimitReport(
        dimension=state.name,
        whose="key" if state.is_of_key else "workspace",
        kind=kind,
        of=of,
        per=per,
        limit=limit.limit,
        capacity=state.capacity,
        used=state.used,
        reserved=state.reserved,
        remaining=state.remaining,
        shadow=limit.shadow,
        # Nobody knows when a lease ends.
        reset_after_ms=None if kind == "concurrency" else state.reset_after_ms,
        resets_at=resets_at(state, now_ms=now_ms),
    )


def _form_of(limit: Limit) -> tuple[Kind, Unit | Literal["leases"], Period | None]:
    match limit:
        case Rate():
            return "rate", limit.of, limit.per
        case Quota():
            return "quota", limit.of, limit.per
        case Concurrency():
            return "concurrency", "leases", None
        case _:
            assert_never(limit)
