"""The report: verdicts, excuses, the table; and what a run may spend."""

from __future__ import annotations

import io
from typing import Final, get_args

import msgspec
import pytest

from gateway.conformance.findings import CHECKS, REMEDIES, Cause
from gateway.conformance.observations import Evidence, LimitSeen
from gateway.conformance.progress import Progress
from gateway.conformance.report import Report, Tally, report_of
from gateway.conformance.spending import OnSkip, Options, plan_spending
from gateway.conformance.table import NARROWEST, to_table
from tests.conformance.seen import (
    attempt,
    concurrency,
    evidence,
    look,
    quota,
    rate,
    refused,
)

RATE = rate()
BROKEN = [attempt(0) for _ in range(12)]


def reported(seen: Evidence, *only: str, on_skip: OnSkip = "incomplete") -> Report:
    return report_of(
        seen,
        model="m",
        base_urls=["http://a"],
        only=frozenset(only or CHECKS),
        seconds=1,
        on_skip=on_skip,
    )


def test_a_failure_is_in_the_verdict_and_in_the_table() -> None:
    report = reported(evidence(RATE, *BROKEN))
    table = to_table(report)

    assert (1, "FAIL") == (report.exit_code, report.verdict)
    assert "12 requests taken, 0 refusals, peak 12.0 of 10" in table
    assert "2 requests more than 10 and its refill" in table
    assert all(line == line.rstrip() for line in table.splitlines())


@pytest.mark.parametrize("on_skip", ["incomplete", "fail", "pass"])
def test_nothing_judged_is_no_pass(on_skip: OnSkip) -> None:
    """Whatever the caller makes of a skip: nothing at all is no proof of anything."""
    report = reported(evidence(RATE), on_skip=on_skip)

    assert (2, "nothing judged") == (report.exit_code, report.verdict)
    assert report.error == "nothing judged"


TEN: Final = [attempt(0) for _ in range(10)]
FULL: Final = evidence(RATE, *TEN, refused(RATE, 0.01, 0.02))


def test_pass_means_that_everything_promised_was_judged() -> None:
    report = reported(FULL, "over-admission", "leaked-leases")

    assert (0, "pass") == (report.exit_code, report.verdict)
    # No concurrency is limited: that nothing leaked is not promised, so not missing.
    assert Tally(kept=1, broken=0, not_judged=0, not_applicable=1) == report.tally


@pytest.mark.parametrize(
    ("on_skip", "code"), [("incomplete", 3), ("fail", 1), ("pass", 0)]
)
def test_what_was_not_judged_is_no_pass(on_skip: OnSkip, code: int) -> None:
    """The verdict says so whatever the exit code makes of it, and says what to do."""
    report = reported(FULL, "over-admission", "agreement", on_skip=on_skip)
    *_, remedy, _, verdict = to_table(report).splitlines()

    assert (code, "incomplete") == (report.exit_code, report.verdict)
    assert {"one-base-url": 1} == report.not_judged
    assert "give --base-url once for each replica" in remedy
    assert (
        "incomplete: 1 kept, 0 broken, 1 not judged (one-base-url 1);"
        f" exit code {code}" == verdict
    )


def test_a_failure_outweighs_what_was_not_judged() -> None:
    report = reported(evidence(RATE, *BROKEN), on_skip="pass")

    assert (1, "FAIL") == (report.exit_code, report.verdict)
    assert report.tally.not_judged > 0


def test_every_cause_has_a_remedy() -> None:
    assert set(get_args(Cause)) == set(REMEDIES)


def test_a_limit_in_shadow_is_not_promised() -> None:
    seen = evidence(rate(shadow=True))

    verdicts = {f.verdict for f in reported(seen, "over-admission").checks}
    assert {"n/a"} == verdicts


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_a_narrow_terminal_gets_a_list(columns: int) -> None:
    """Every line fits, and every verdict is there."""
    report = reported(FULL)

    table = to_table(report, columns)

    assert max(map(len, table.splitlines())) <= max(columns, NARROWEST)
    assert table.count("n/a ") == report.tally.not_applicable
    assert "pass over-admission requests-per-minute" in to_table(report, 80)


def test_what_the_deployment_says_moves_no_cursor() -> None:
    """A plan's title may be anything, and is printed."""
    report = msgspec.structs.replace(reported(FULL), plan="\x1b]0;owned\x07\nx")

    assert "?]0;owned??x" in to_table(report)


def test_other_traffic_excuses_no_over_admission() -> None:
    seen = evidence(RATE, *BROKEN)
    seen.snapshots += [look(rate(used=u), at=90.0 + u) for u in (0, 9)]

    report = reported(seen)

    assert {"over-admission"} == {f.check for f in report.checks if f.verdict == "FAIL"}
    assert "other traffic" in report.notes[0]


def test_answers_decided_without_the_store_are_noted() -> None:
    report = reported(evidence(RATE, attempt(0, degraded="share")))

    assert report.notes == ("1 answers were decided without the shared store",)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Closed(io.StringIO):
    """A pipe nobody reads."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def fileno(self) -> int:
        raise io.UnsupportedOperation


def test_progress_is_a_bar_on_a_terminal_lines_elsewhere_or_nothing() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file, Closed(), None):
        progress = Progress(stream, 2)
        progress.step("one")
        progress.step("two")
        progress.end()

    assert "one\ntwo\n" == file.getvalue()
    assert f"\r[{'#' * 12}{'.' * 12}] two" in terminal.getvalue()
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("limits", "dimension", "why"),
    [
        pytest.param(
            [rate(limit=60_000, capacity=60_000, remaining=60_000)],
            "requests-per-minute",
            "60,000 requests and a refusal are more than --unsafe-requests 1,000",
            id="too many requests",
        ),
        pytest.param(
            [rate(of="tokens", dimension="t", limit=99_000, capacity=99_000)],
            "t",
            "filling 99,000 tokens takes more than --unsafe-tokens 30,000",
            id="too many tokens",
        ),
        pytest.param(
            [concurrency(limit=500)],
            "concurrency",
            "1004 streams are more than --concurrency 64",
            id="too many streams",
        ),
        pytest.param(
            [rate(), quota(490)],
            "requests-per-minute",
            "tokens-per-calendar-day has only 10 left",
            id="a quota that would be used up",
        ),
        pytest.param(
            [quota()],
            "tokens-per-calendar-day",
            "filling a quota of 500 tokens a day locks the workspace out until"
            " 1970-01-01 00:16 UTC",
            id="a quota",
        ),
    ],
)
def test_what_costs_too_much_is_not_tried(
    limits: list[LimitSeen], dimension: str, why: str
) -> None:
    spending = plan_spending(look(*limits), Options(), 1)

    assert why == spending.untried[dimension].reason
    assert not spending.loads or spending.loads[0].aim.dimension != dimension


def test_limits_in_shadow_are_not_loaded() -> None:
    assert plan_spending(look(rate(shadow=True)), Options(), 1).loads == []
