"""Every query that a dashboard or a rule asks, ready to be asked of a Prometheus."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from grafana.rules import ALERTS

GRAFANA: Final = Path(__file__).parents[2] / "grafana"
# Shorter ones hold too few of a busy machine's scrapes.
_VARIABLES: Final = {
    "$__rate_interval": "20s",
    "$job": ".*",
    "$namespace": ".*",
}
# What has no data on a healthy loopback, and why.
_SILENT: Final = {
    "GatewayCertificateNearExpiry": "the upstream here has no TLS",
    "GatewayReplicaDown": "no replica is down",
    "Time left of the certificate": "the upstream here has no TLS",
}


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Each panel's queries, with Grafana's variables filled in."""
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        for panel in _panels(json.loads(path.read_text())):
            for target in panel.get("targets", ()):
                if panel["title"] in _SILENT:
                    continue
                yield f"{path.stem}: {panel['title']}", filled(target["expr"])


def overview_panels() -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """Of the overview's panels title, unit, and each query with its legend."""
    board = json.loads((GRAFANA / "dashboards" / "overview.json").read_text())
    for panel in _panels(board):
        if panel["type"] == "timeseries":
            unit = panel["fieldConfig"]["defaults"]["unit"]
            asked = [(t["legendFormat"], t["expr"]) for t in panel["targets"]]
            yield panel["title"], unit, [(name, filled(e)) for name, e in asked]


def filled(expression: str) -> str:
    """A query with Grafana's variables filled in."""
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def _panels(holder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in holder.get("panels", ()):
        yield panel
        yield from _panels(panel)


def rule_queries() -> Iterator[tuple[str, str]]:
    """
    What each alert compares, and what each recording records.

    An alert itself says nothing while all is well, which is when it can be broken
    without anybody noticing.
    """
    for alert in ALERTS:
        if alert.name not in _SILENT:
            for part in alert.parts:
                yield alert.name, part
    for rule in recorded():
        yield rule["record"], rule["expr"]


def recorded() -> list[dict[str, str]]:
    """The recording rules."""
    file = GRAFANA / "rules" / "recording.yaml"
    groups = msgspec.yaml.decode(file.read_bytes())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def rules_each_second(folder: Path) -> list[Path]:
    """
    The rule files with every group's interval at the scrape's: a proof is short.
    """
    copies = []
    for path in sorted((GRAFANA / "rules").glob("*.yaml")):
        rules = msgspec.yaml.decode(path.read_bytes())
        for group in rules["groups"]:
            group["interval"] = "1s"
        copy = folder / path.name
        copy.write_bytes(msgspec.yaml.encode(rules))
        copies.append(copy)
    return copies
