"""The report: verdicts, excuses, the table; and what a run may spend."""

from __future__ import annotations

import io

import pytest

from gateway.conformance.findings import CHECKS
from gateway.conformance.observations import Evidence, LimitSeen
from gateway.conformance.progress import Progress
from gateway.conformance.report import Report, report_of, to_table
from gateway.conformance.spending import Options, plan_spending
from tests.conformance.seen import attempt, concurrency, evidence, look, quota, rate

RATE = rate()
BROKEN = [attempt(0) for _ in range(12)]


def reported(seen: Evidence) -> Report:
    return report_of(
        seen, model="m", base_urls=["http://a"], only=frozenset(CHECKS), seconds=1
    )


def test_a_failure_is_in_the_verdict_and_in_the_table() -> None:
    report = reported(evidence(RATE, *BROKEN))
    table = to_table(report)

    assert (1, "FAIL") == (report.exit_code, report.verdict)
    assert "12 requests taken, 0 refusals, peak 12.0 of 10" in table
    assert "2 requests more than 10 and its refill" in table
    assert all(line == line.rstrip() for line in table.splitlines())


def test_nothing_measured_is_no_pass() -> None:
    assert reported(evidence(RATE)).exit_code == 2


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


def test_progress_is_a_bar_on_a_terminal_lines_elsewhere_or_nothing() -> None:
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file, None):
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
            "60,000 requests are more than --unsafe-requests 1,000",
            id="too many requests",
        ),
        pytest.param(
            [rate(of="tokens", dimension="t", limit=99_000, capacity=99_000)],
            "t",
            "filling 99,000 tokens would cost too much (--unsafe-tokens)",
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
            " 1970-01-01 00:16 UTC; --unsafe-fill-quotas does it",
            id="a quota",
        ),
    ],
)
def test_what_costs_too_much_is_not_tried(
    limits: list[LimitSeen], dimension: str, why: str
) -> None:
    spending = plan_spending(look(*limits), Options(), 1)

    assert why == spending.untried[dimension]
    assert not spending.loads or spending.loads[0].aim.dimension != dimension


def test_limits_in_shadow_are_not_loaded() -> None:
    assert plan_spending(look(rate(shadow=True)), Options(), 1).loads == []
