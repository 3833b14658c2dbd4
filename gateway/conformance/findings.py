"""
What a check found: one row of the report, and why a row may have no figure.

A promise that the plan does not make is no finding. One that it makes and that was not
judged is: it has a cause out of a few, and each cause has a remedy.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Check: TypeAlias = Literal[
    "over-admission",
    "under-admission",
    "leaked-leases",
    "header-truth",
    "settlement",
    "agreement",
]
CHECKS: Final[tuple[Check, ...]] = (
    "over-admission",
    "under-admission",
    "leaked-leases",
    "header-truth",
    "settlement",
    "agreement",
)

Verdict: TypeAlias = Literal[
    "pass",
    "FAIL",
    "skipped",  # promised, and not judged
    "n/a",  # not promised by this plan
]

Cause: TypeAlias = Literal[
    "too-costly",
    "locks-out",
    "too-many-streams",
    "little-quota-left",
    "small-plan",
    "hidden-by-another-limit",
    "not-reached",
    "failed-requests",
    "out-of-time",
    "one-base-url",
    "short-answers",
    "fast-refill",
    "long-waits",
    "changed-meanwhile",
    "other-traffic",
    "no-headers",
    "no-preview",
]
REMEDIES: Final[dict[Cause, str]] = {
    "too-costly": "raise --unsafe-requests or --unsafe-tokens, or take a smaller plan",
    "locks-out": "--unsafe-fill-quotas, if the workspace may be locked out",
    "too-many-streams": "raise --concurrency",
    "little-quota-left": "take a workspace with more of its quotas left",
    "small-plan": "take a plan with room for a few requests more",
    "hidden-by-another-limit": "take a plan in which this limit is the first to refuse",
    "not-reached": "raise --concurrency, or run it nearer to the deployment",
    "failed-requests": "see the notes; mend what fails, or name another --model",
    "out-of-time": "raise --seconds",
    "one-base-url": "give --base-url once for each replica",
    "short-answers": "name a slower --model",
    "fast-refill": "run it nearer to the deployment, or take a slower plan",
    "long-waits": "take a plan that refills a request within 5 s",
    "changed-meanwhile": "run it again",
    "other-traffic": "take a workspace that nothing else uses",
    "no-headers": "let the x-ratelimit-* headers through",
    "no-preview": "let POST /v1/limits/preview through",
}


class Skip(msgspec.Struct, frozen=True):
    """Why a promise was not judged: the cause, and the case in words."""

    cause: Cause
    reason: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A figure against its bound, or why there is none."""

    check: Check
    # A dimension of the plan, or what else was looked at.
    subject: str
    measured: str = ""
    figure: float | None = None
    bound: str = ""
    verdict: Verdict
    reason: str = ""
    # Of what was skipped.
    cause: Cause | None = None


def skipped(check: Check, subject: str, why: Skip, measured: str = "") -> Finding:
    return Finding(
        check=check,
        subject=subject,
        measured=measured,
        verdict="skipped",
        reason=why.reason,
        cause=why.cause,
    )


def not_applicable(check: Check, subject: str, reason: str) -> Finding:
    return Finding(check=check, subject=subject, verdict="n/a", reason=reason)


def judged(
    check: Check,
    subject: str,
    measured: str,
    figure: float,
    *,
    bound: str,
    is_kept: bool,
    reason: str = "",
) -> Finding:
    return Finding(
        check=check,
        subject=subject,
        measured=measured,
        figure=figure,
        bound=bound,
        verdict="pass" if is_kept else "FAIL",
        reason="" if is_kept else reason,
    )
