"""What a check found: one row of the report."""

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

Verdict: TypeAlias = Literal["pass", "FAIL", "skipped"]


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


def skipped(check: Check, subject: str, reason: str, measured: str = "") -> Finding:
    return Finding(
        check=check,
        subject=subject,
        measured=measured,
        verdict="skipped",
        reason=reason,
    )


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
