"""Every query that a dashboard or a rule asks, ready to be asked of a Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

GRAFANA: Final = Path(__file__).parents[2] / "grafana"
# Four times a scrape interval of one second is too short for a busy machine.
_VARIABLES: Final = {
    "$__rate_interval": "20s",
    "$__interval": "5s",
    "$__range": "60s",
    "${job}": ".*",
    "$job": ".*",
    "${namespace}": ".*",
    "$namespace": ".*",
}
# A filter says nothing when all is well. With `bool` it says 0, if its data is there.
_COMPARES: Final = re.compile(r"(?<=[\s)\d]) (>=|<=|==|!=|>|<)(?= )(?! bool)")


def _rules() -> list[dict[str, Any]]:
    found = []
    for path in sorted((GRAFANA / "rules").glob("*.yaml")):
        for group in msgspec.yaml.decode(path.read_bytes())["groups"]:
            found += group["rules"]
    return found


ALERTS: Final = [rule["alert"] for rule in _rules() if "alert" in rule]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Each panel's queries, with Grafana's variables filled in."""
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        for panel in _panels(json.loads(path.read_text())):
            for target in panel.get("targets", ()):
                expression = target["expr"]
                for variable, value in _VARIABLES.items():
                    expression = expression.replace(variable, value)
                yield f"{path.stem}: {panel['title']}", expression


def _panels(holder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in holder.get("panels", ()):
        yield panel
        yield from _panels(panel)


def rule_queries() -> Iterator[tuple[str, str]]:
    """Each rule's expression, without the comparisons that keep it silent."""
    for rule in _rules():
        name = rule.get("alert") or rule["record"]
        yield name, _COMPARES.sub(r" \1 bool", " ".join(rule["expr"].split()))
