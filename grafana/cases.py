"""
A case: a history of an alert's metrics, and which of its rules fire at a moment of it.

Values are promtool's: `a+bxn` is a, then n times b more; `_` is a scrape that failed.
One a minute, or one in five where a case takes days.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from gateway.telemetry.definition import Definition
from grafana.rules import (
    ALERTS,
    GROUPS,
    RUNBOOKS,
    annotations_of,
    labels_of,
    recording_file,
)

# One deployment in Kubernetes, and one without a namespace.
POD: Final = {"namespace": "edge", "job": "gateway"}
HOST: Final = {"job": "gateway"}


class Line(NamedTuple):
    """One series of one replica."""

    metric: str
    labels: str
    values: str
    instance: str = "a"


class Case(NamedTuple):
    """What is seen, and which rules of an alert fire at a moment of it."""

    alert: str
    says: str
    lines: tuple[Line, ...]
    at: str
    fires: tuple[str, ...] = ()
    target: dict[str, str] = POD


def one(metric: Definition, values: str, labels: str = "") -> tuple[Line, ...]:
    """The one series of the one replica."""
    return (Line(metric.name, labels, values),)


def with_outcomes(
    metric: Definition, labels: str = "", **outcomes: str
) -> tuple[Line, ...]:
    """A series for each outcome."""
    before = f"{labels}," if labels else ""
    return tuple(
        Line(metric.name, f'{before}outcome="{outcome}"', values)
        for outcome, values in outcomes.items()
    )


def case_file(
    rules: Iterable[str], cases: Iterable[Case], *, every: str, evaluated: str
) -> dict[str, Any]:
    """
    What `promtool test rules` reads.

    Rules are evaluated in the order that is written here, so that alerts see what was
    recorded at the same moment, however long ago the moment before was.
    """
    groups = [group["name"] for group in recording_file()["groups"]]
    return {
        "rule_files": list(rules),
        "evaluation_interval": evaluated,
        "group_eval_order": [*groups, *GROUPS],
        "tests": [_test(case, every) for case in cases],
    }


def _test(case: Case, every: str) -> dict[str, Any]:
    fired = [a for a in ALERTS if a.name == case.alert and a.key in case.fires]
    expected = [
        {
            "exp_labels": {**case.target, **labels_of(alert)},
            "exp_annotations": annotations_of(alert, RUNBOOKS),
        }
        for alert in fired
    ]
    asked = {"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}
    return {
        "name": f"{case.alert}: {case.says}",
        "interval": every,
        "input_series": [_written(line, case.target) for line in case.lines],
        "alert_rule_test": [asked],
    }


def _written(line: Line, target: dict[str, str]) -> dict[str, str]:
    labels = [f'{name}="{value}"' for name, value in target.items()]
    labels += [f'instance="{line.instance}"', *([line.labels] if line.labels else [])]
    return {"series": f"{line.metric}{{{','.join(labels)}}}", "values": line.values}
