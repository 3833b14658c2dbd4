"""Writes recordings, alerts and their test cases in Prometheus' own YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import yaml

from grafana.alerts import EXPIRY, OPERATION, STORE, UPSTREAM, Alert
from grafana.job_alerts import JOBS
from grafana.leavers import LEAVERS
from grafana.slos import Recording, burn_alerts, recordings

# An address, because who reads a notification has no checkout; an operator may have a
# copy that is nearer.
RUNBOOKS: Final = "https://github.com/llmtune/gateway/blob/main/docs/runbooks.md"
_GENERATED: Final = "# Written by `python -m grafana` from what is below grafana/.\n"

# Their queries read days of samples: every other minute is soon enough, and within the
# five minutes for which Prometheus remembers a series.
_LONG_WINDOWS: Final = ("1d", "3d")
_LONG_INTERVAL: Final = "2m"

GROUPS: Final[dict[str, Sequence[Alert]]] = {
    "llmtune-gateway-budgets": burn_alerts(),
    "llmtune-gateway-leavers": LEAVERS,
    "llmtune-gateway-store": STORE,
    "llmtune-gateway-upstream": UPSTREAM,
    "llmtune-gateway-jobs": JOBS,
    "llmtune-gateway-operation": OPERATION,
    "llmtune-gateway-expiry": EXPIRY,
}
ALERTS: Final = tuple(alert for group in GROUPS.values() for alert in group)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay such, so that a reader can read a query."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Any) -> str:
    """A generated file, which says so."""
    written = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=88)
    return _GENERATED + written


def recording_file() -> dict[str, Any]:
    short = [r for r in recordings() if r.window not in _LONG_WINDOWS]
    long = [r for r in recordings() if r.window in _LONG_WINDOWS]
    name = "llmtune-gateway-recordings"
    return {
        "groups": [
            {"name": name, "rules": [_recorded(r) for r in short]},
            {
                "name": f"{name}-long",
                "interval": _LONG_INTERVAL,
                "rules": [_recorded(r) for r in long],
            },
        ]
    }


def alert_file(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    groups = [
        {"name": name, "rules": [_alerting(alert, runbooks) for alert in alerts]}
        for name, alerts in GROUPS.items()
    ]
    return {"groups": groups}


def anchor_of(alert: Alert) -> str:
    """The heading of its runbook, as Markdown's renderers write it in an address."""
    return alert.name.lower()


def labels_of(alert: Alert) -> dict[str, str]:
    window = {"window": alert.window} if alert.window else {}
    return {"severity": alert.severity, **window}


def annotations_of(alert: Alert, runbooks: str = RUNBOOKS) -> dict[str, str]:
    return {
        "summary": alert.summary,
        "description": alert.description,
        "runbook_url": f"{runbooks}#{anchor_of(alert)}",
    }


def _recorded(recording: Recording) -> dict[str, str]:
    return {"record": recording.record, "expr": recording.expr}


def _alerting(alert: Alert, runbooks: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.lasting,
        "labels": labels_of(alert),
        "annotations": annotations_of(alert, runbooks),
    }
