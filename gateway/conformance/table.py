"""
The report for people: a table where it fits, a list where it does not. Pure.

The verdict is the last line: whoever reads only that knows what was not judged and why.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.conformance.findings import REMEDIES, Finding
from gateway.conformance.report import Report, Tally

HEADINGS: Final = ("check", "subject", "measured", "figure", "bound", "verdict")
# Below that, wrapping makes words unreadable instead of lines short.
NARROWEST: Final = 24


def to_table(report: Report, columns: int | None = None) -> str:
    """Everything that was found; as a list if the table is wider than that."""
    rows = [_cells(finding) for finding in report.checks]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *rows, strict=True)]
    table_columns = sum(widths) + 2 * (len(widths) - 1)
    is_narrow = columns is not None and table_columns > columns
    found = _listed(report.checks) if is_narrow else _tabled(report.checks, widths)
    lines = [*found, "", *_closing(report)]
    if is_narrow and columns is not None:
        lines = [part for line in lines for part in _wrapped(line, columns)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _tabled(checks: Iterable[Finding], widths: list[int]) -> Iterator[str]:
    """One row a finding; where it failed or was not judged, the reason below it."""
    yield _line(HEADINGS, widths)
    yield _line(["-" * width for width in widths], widths)
    for finding in checks:
        yield _line(_cells(finding), widths)
        if finding.reason:
            yield f"{' ' * (widths[0] + 2)}{finding.reason}"


def _listed(checks: Iterable[Finding]) -> Iterator[str]:
    for finding in checks:
        yield f"{finding.verdict} {finding.check} {finding.subject}"
        _, _, measured, figure, bound, _ = _cells(finding)
        if measured:
            yield f"  {measured}"
        if figure:
            yield f"  {figure}, bound {bound}"
        if finding.reason:
            yield f"  {finding.reason}"


def _closing(report: Report) -> Iterator[str]:
    yield from (f"note: {note}" for note in report.notes)
    if report.not_judged:
        yield "to have judged what was not:"
        widest = max(map(len, report.not_judged))
        for cause, count in report.not_judged.items():
            yield f"  {count:>3}  {cause:<{widest}}  {REMEDIES[cause]}"
    yield (
        f"plan {report.plan}, {len(report.base_urls)} base URL(s),"
        f" {report.requests_sent:,} requests, {report.tokens_reported:,} tokens,"
        f" {report.seconds:.0f} s"
    )
    yield verdict_line(report)


def verdict_line(report: Report) -> str:
    """Found what, proven how much, and why no more."""
    tally: Tally = report.tally
    line = f"{report.verdict}: {tally.kept} kept, {tally.broken} broken"
    line += f", {tally.not_judged} not judged"
    if report.not_judged:
        causes = (f"{cause} {count}" for cause, count in report.not_judged.items())
        line += f" ({', '.join(causes)})"
    return f"{line}; exit code {report.exit_code}"


def printable(text: str) -> str:
    """One line, in which nothing that was told moves a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _wrapped(line: str, columns: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    width = max(columns, NARROWEST)
    return textwrap.wrap(line, width, subsequent_indent=indent) or [""]


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
