"""How much is kept of a workspace, beside what its plan says of files."""

from __future__ import annotations

from typing import Final

from gateway.auth import Principal
from gateway.errors import LimitExceeded
from policies.jobs.port import JobStore
from policies.plans import Plan

# Of one kind, those that have ended included: some 100 MB of the store.
MOST_KEPT: Final = 100_000


async def require_place(
    jobs: JobStore, principal: Principal, kind: str, what: str
) -> None:
    """
    LimitExceeded where a workspace has so many `what` already. JobsUnavailable.

    Those who ask at the same instant may exceed it by one each.
    """
    used, most = await jobs.count(principal.workspace, kind), MOST_KEPT
    if used < most:
        return
    text = (
        f"The workspace has {used} {what}, and the gateway keeps {most} at most."
        " Files can be deleted; what has ended is forgotten in time."
    )
    raise no_room(principal.plan, f"kept-{what}", text, most=most, used=used, asked=1)


def no_room(
    plan: Plan, dimension: str, text: str, *, most: int, used: int, asked: int
) -> LimitExceeded:
    """Of a bound that no time refills: only who deletes has room again."""
    return LimitExceeded(
        text,
        limit_code="request_exceeds_limit" if asked > most else "insufficient_quota",
        is_retryable=False,
        details={
            "plan": plan.plan,
            "dimension": dimension,
            "limit": most,
            "used": used,
            "requested": asked,
            "resets_at": None,
            "whose": "gateway",
        },
    )
