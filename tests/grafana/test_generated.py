"""What is committed is what the source writes, and promtool is content with it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from gateway.envelope import Fault
from gateway.telemetry.definitions import DEFINITIONS
from grafana.__main__ import BOARDS, BUDGET_CASES, CASES, HERE, generated
from grafana.alerts import NOT_ITS_FAULT
from grafana.budget_cases import DAYS, HOURS
from grafana.job_cases import CASES as JOBS
from grafana.leaver_cases import CASES as LEAVERS
from grafana.rules import ALERTS, anchor_of
from grafana.symptom_cases import CASES as SYMPTOMS
from tests.proofs.queries import dashboard_queries, rule_queries
from tests.servers.prometheus import prometheus_program

ROOT: Final = Path(__file__).parents[2]
FILES: Final = generated()
BOARD_FILES: Final = [f"dashboards/{name}.json" for name in BOARDS]
# promtool takes 50 s for the days alone.
PROMTOOL_WITHIN_S: Final = 240


@pytest.mark.parametrize("name", FILES)
def test_what_is_committed_is_what_the_source_writes(name: str) -> None:
    """`python -m grafana` was run; people import the files, not the source."""
    assert (HERE / name).read_text(encoding="utf-8") == FILES[name]


def test_nothing_is_committed_that_the_source_does_not_write() -> None:
    """A dashboard that was renamed leaves none behind."""
    folders = ("dashboards", "rules", "tests")
    found = {str(p.relative_to(HERE)) for f in folders for p in (HERE / f).iterdir()}

    assert found == set(FILES)


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [prometheus_program("promtool"), *arguments],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=PROMTOOL_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_no_fault_with_the_rules() -> None:
    """They load as they are."""
    promtool("check", "rules", "rules/recording.yaml", "rules/alerts.yaml")


@pytest.mark.timeout(PROMTOOL_WITHIN_S)
@pytest.mark.parametrize("name", [CASES, BUDGET_CASES])
def test_alerts_fire_when_they_should_and_are_silent_when_not(name: str) -> None:
    """On histories of hours and days, evaluated by Prometheus' own engine."""
    promtool("test", "rules", name)


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    """Of each severity and window, the former."""
    cases = (*SYMPTOMS, *LEAVERS, *JOBS, *HOURS, *DAYS)
    fired = {(case.alert, key) for case in cases for key in case.fires}
    silent = {case.alert for case in cases if not case.fires}

    assert {(alert.name, alert.key) for alert in ALERTS} == fired
    assert {alert.name for alert in ALERTS} == silent


def test_every_alert_has_its_section_in_the_runbooks() -> None:
    """And none is there of an alert that is gone."""
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\w+)$", text, flags=re.MULTILINE)

    assert {anchor_of(alert) for alert in ALERTS} == {s.lower() for s in sections}
    assert len(sections) == len(set(sections))
    for name in re.findall(r"\]\(#(\w+)\)", text):
        assert name in {section.lower() for section in sections}


def test_runbooks_send_nobody_to_a_panel_that_is_not_there() -> None:
    """What they name in italics is a panel, and on the dashboard that is named."""
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    _, _, runbooks = text.partition("\n## ")
    titles = {name: panel_titles(f"dashboards/{name}.json") for name in BOARDS}
    asked = set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", runbooks))
    placed = re.findall(
        rf"({'|'.join(BOARDS)})(?: dashboard)?, \*([^*\n]+)\*", runbooks, re.IGNORECASE
    )

    assert asked - set().union(*titles.values()) == set()
    assert placed
    assert [each for each in placed if each[1] not in titles[each[0].lower()]] == []


def test_the_runbook_of_a_failing_upstream_knows_each_way_to_fail() -> None:
    """Whatever the panel shows or the access lines say; what is not its fault aside."""
    text = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    _, _, section = text.partition("## GatewayUpstreamFailing\n")
    named = set(re.findall(r"`(\w+)`", section.partition("\n## ")[0]))

    assert set(get_args(Fault)) - set(NOT_ITS_FAULT.split("|")) - named == set()


def panel_titles(name: str) -> set[str]:
    return {panel["title"] for panel in json.loads(FILES[name])["panels"]}


@pytest.mark.parametrize("name", BOARD_FILES)
def test_a_dashboard_says_what_it_answers_and_what_is_normal(name: str) -> None:
    """A question; at most sixteen panels, each with a description and a unit."""
    board: dict[str, Any] = json.loads(FILES[name])
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]

    assert board["description"].endswith("?")
    assert board["uid"].startswith("llmtune-gateway-")
    assert board["timezone"] == "utc"
    assert not board["editable"]
    assert [link["includeVars"] and link["keepTime"] for link in board["links"]]
    assert 0 < len(panels) <= 16
    for panel in panels:
        assert len(panel["description"]) > 40, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "$datasource"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_only_metrics_that_exist_are_asked_for() -> None:
    """Those of the definitions, with the suffixes that their kinds have."""
    names = {
        each.name + suffix
        for each in DEFINITIONS
        for suffix in (
            ("_bucket", "_count", "_sum") if each.kind == "histogram" else ("",)
        )
    }
    for where, expression in (*dashboard_queries(), *rule_queries()):
        for asked in re.findall(r"(?<![:\w])llmtune_gateway_\w+", expression):
            assert asked in names, where
