"""The findings as a table for people and as JSON for programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal

import msgspec

from gateway.conformance.admissions import judge_admissions
from gateway.conformance.findings import CHECKS, Finding
from gateway.conformance.observations import Evidence
from gateway.conformance.promises import (
    foreign_use,
    judge_agreement,
    judge_headers,
    judge_leaks,
    judge_settlement,
)

HEADINGS: Final = ("check", "subject", "measured", "figure", "bound", "verdict")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run found, and how it ended."""

    object: Literal["conformance"] = "conformance"
    verdict: Literal["pass", "FAIL", "nothing measured"]
    plan: str
    model: str
    base_urls: tuple[str, ...]
    seconds: float
    requests_sent: int
    tokens_reported: int
    notes: tuple[str, ...]
    checks: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        return {"pass": 0, "FAIL": 1}.get(self.verdict, 2)


def report_of(
    evidence: Evidence,
    *,
    model: str,
    base_urls: Iterable[str],
    only: frozenset[str],
    seconds: float,
) -> Report:
    """Judge everything that was seen."""
    foreign = foreign_use(evidence)
    checks = tuple(_excused(finding, foreign) for finding in judge(evidence, only=only))
    attempts = evidence.attempts
    return Report(
        verdict=_verdict(checks),
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
    return msgspec.structs.replace(
        finding, verdict="skipped", reason="other traffic uses the workspace"
    )


def _verdict(
    checks: tuple[Finding, ...],
) -> Literal["pass", "FAIL", "nothing measured"]:
    verdicts = {finding.verdict for finding in checks}
    if "FAIL" in verdicts:
        return "FAIL"
    return "pass" if "pass" in verdicts else "nothing measured"


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
    failed = [a for a in evidence.attempts if a.outcome in ("failed", "unknown")]
    if failed:
        notes.append(f"{len(failed)} requests failed, the last: {failed[-1].problem}")
    return notes


def to_json(report: Report, spent_at_most: dict[str, int]) -> bytes:
    document: dict[str, Any] = msgspec.to_builtins(report)
    document["spends_at_most"] = spent_at_most
    return msgspec.json.format(msgspec.json.encode(document), indent=2)


def to_table(report: Report) -> str:
    """One row a check; where it failed or was skipped, the reason below it."""
    rows = [_cells(finding) for finding in report.checks]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    lines = [_line(HEADINGS, widths), _line(["-" * width for width in widths], widths)]
    for finding, cells in zip(report.checks, rows, strict=True):
        lines.append(_line(cells, widths))
        if finding.reason:
            lines.append(f"{' ' * (widths[0] + 2)}{finding.reason}")
    lines += ["", *(f"note: {note}" for note in report.notes)]
    lines.append(
        f"{report.verdict}: plan {report.plan}, {len(report.base_urls)} base URL(s),"
        f" {report.requests_sent:,} requests, {report.tokens_reported:,} tokens,"
        f" {report.seconds:.0f} s"
    )
    return "\n".join(lines) + "\n"


def _cells(finding: Finding) -> tuple[str, ...]:
    figure = "" if finding.figure is None else f"{finding.figure:,.6g}"
    return (
        finding.check,
        finding.subject,
        finding.measured,
        figure,
        finding.bound,
        finding.verdict,
    )


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    padded = (f"{c:<{width}}" for c, width in zip(cells, widths, strict=True))
    return "  ".join(padded).rstrip()
