"""How much is kept of a workspace: files, batches and fine-tunes, by their number."""

from __future__ import annotations

from typing import Final

from gateway.auth import Principal
from gateway.errors import LimitExceeded
from policies.jobs.port import JobStore

# Of one kind, those that have ended included: some 100 MB of the store.
MOST_KEPT: Final = 100_000


async def require_place(
    jobs: JobStore, principal: Principal, kind: str, what: str, most: int = MOST_KEPT
) -> None:
    """
    LimitExceeded where a workspace has so many `what` already. JobsUnavailable.

    Those who ask at the same instant may exceed it by one each.
    """
    used = await jobs.count(principal.workspace, kind)
    if used < most:
        return
    plan = principal.plan
    raise LimitExceeded(
        f"The workspace has {used} {what}; the gateway keeps {most} at most."
        " Please delete some that are no longer needed, or wait until the oldest end.",
        limit_code="insufficient_quota",
        is_retryable=False,
        details={
            "plan": plan.plan,
            "dimension": f"kept-{what}",
            "limit": most,
            "used": used,
            "requested": 1,
            "resets_at": None,
            "whose": "gateway",
        },
    )
