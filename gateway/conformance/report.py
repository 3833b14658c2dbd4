"""
The findings and the verdict over them. Pure.

`pass` is said only when everything that the plan promises was judged and kept. The
verdict is what was found; what the exit code makes of a skip is the caller's choice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.conformance.admissions import judge_admissions
from gateway.conformance.findings import CHECKS, Cause, Finding, Skip, skipped
from gateway.conformance.observations import UNANSWERED, Evidence
from gateway.conformance.promises import (
    foreign_use,
    judge_agreement,
    judge_headers,
    judge_leaks,
    judge_settlement,
)
from gateway.conformance.spending import OnSkip

Outcome: TypeAlias = Literal["pass", "FAIL", "incomplete", "nothing judged"]

EXIT_CODES: Final[dict[Outcome, int]] = {
    "pass": 0,
    "FAIL": 1,
    "nothing judged": 2,
    "incomplete": 3,
}
INCOMPLETE_CODES: Final[dict[OnSkip, int]] = {"pass": 0, "fail": 1, "incomplete": 3}


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many findings ended how."""

    kept: int
    broken: int
    not_judged: int
    not_applicable: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found, and how it ended."""

    object: Literal["conformance"] = "conformance"
    verdict: Outcome
    exit_code: int
    error: str | None = None
    tally: Tally
    # How many promises were not judged for which cause, the commonest first.
    not_judged: dict[Cause, int]
    plan: str
    model: str
    base_urls: tuple[str, ...]
    seconds: float
    requests_sent: int
    tokens_reported: int
    notes: tuple[str, ...]
    checks: tuple[Finding, ...]


def report_of(
    evidence: Evidence,
    *,
    model: str,
    base_urls: Iterable[str],
    only: frozenset[str],
    seconds: float,
    on_skip: OnSkip = "incomplete",
) -> Report:
    """Judge everything that was seen."""
    foreign = foreign_use(evidence)
    checks = tuple(_excused(finding, foreign) for finding in judge(evidence, only=only))
    attempts = evidence.attempts
    tally = _tally(checks)
    verdict = _verdict(tally)
    is_skip = verdict == "incomplete"
    causes = Counter(finding.cause for finding in checks if finding.cause is not None)
    return Report(
        verdict=verdict,
        exit_code=INCOMPLETE_CODES[on_skip] if is_skip else EXIT_CODES[verdict],
        error=verdict if verdict == "nothing judged" else None,
        tally=tally,
        not_judged=dict(causes.most_common()),
        plan=evidence.first.title or evidence.first.plan,
        model=model,
        base_urls=tuple(base_urls),
        seconds=round(seconds, 1),
        requests_sent=len(attempts),
        tokens_reported=sum(attempt.total_tokens or 0 for attempt in attempts),
        notes=tuple(_notes(evidence, foreign)),
        checks=checks,
    )


def judge(evidence: Evidence, *, only: frozenset[str]) -> list[Finding]:
    """Every finding, in the order of the checks."""
    found = [
        *judge_admissions(evidence),
        *judge_leaks(evidence),
        *judge_headers(evidence),
        *judge_settlement(evidence),
        *judge_agreement(evidence),
    ]
    wanted = [finding for finding in found if finding.check in only]
    return sorted(wanted, key=lambda finding: CHECKS.index(finding.check))


def _excused(finding: Finding, foreign: str | None) -> Finding:
    # What others use can only make less room, so over-admission stands all the same.
    if foreign is None or finding.verdict != "FAIL":
        return finding
    if finding.check == "over-admission":
        return finding
    why = Skip("other-traffic", "other traffic uses the workspace")
    return skipped(finding.check, finding.subject, why, finding.measured)


def _tally(checks: tuple[Finding, ...]) -> Tally:
    verdicts = Counter(finding.verdict for finding in checks)
    return Tally(
        kept=verdicts["pass"],
        broken=verdicts["FAIL"],
        not_judged=verdicts["skipped"],
        not_applicable=verdicts["n/a"],
    )


def _verdict(tally: Tally) -> Outcome:
    if tally.broken:
        return "FAIL"
    if not tally.kept:
        return "nothing judged"
    return "incomplete" if tally.not_judged else "pass"


def has_accusation(report: Report) -> bool:
    """Whether anything failed that other traffic would excuse."""
    return any(
        finding.verdict == "FAIL" and finding.check != "over-admission"
        for finding in report.checks
    )


def _notes(evidence: Evidence, foreign: str | None) -> list[str]:
    notes = []
    if foreign is not None:
        notes.append(
            f"other traffic uses the workspace ({foreign} while nothing was asked):"
            " figures that it could spoil are skipped"
        )
    guessed = sum(attempt.degraded is not None for attempt in evidence.attempts)
    if guessed:
        notes.append(f"{guessed} answers were decided without the shared store")
    stores = {look.store for look in evidence.snapshots} - {"exact"}
    if stores:
        notes.append(f"the limits were told from store: {', '.join(sorted(stores))}")
    failed = [a for a in evidence.attempts if a.outcome in UNANSWERED]
    if failed:
        notes.append(f"{len(failed)} requests failed, the last: {failed[-1].problem}")
    return notes
