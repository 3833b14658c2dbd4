"""
What every dashboard of ours has: variables, links to the others, UTC, and no editing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from gateway.telemetry import definitions as d
from grafana.panels import DATASOURCE, Panel

TAG: Final = "llmtune-gateway"
# Panels count from 1, and there are at most sixteen.
FIRST_ROW_ID: Final = 101


class Row(NamedTuple):
    """Panels that belong to one step of a request's path."""

    title: str
    panels: Sequence[Panel]


def board(
    uid: str, title: str, question: str, rows: Sequence[Row]
) -> dashboard.Dashboard:
    """A dashboard; its uid is in people's links and must never change."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(question)
        .tags([TAG])
        .readonly()
        .timezone("utc")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(_links())
    )
    for variable in _variables():
        built.with_variable(variable)
    number = 0
    for position, row in enumerate(rows):
        built.with_row(dashboard.Row(row.title).id(FIRST_ROW_ID + position))
        for panel in row.panels:
            number += 1
            built.with_panel(panel.id(number))
    return built


def _links() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("LLMTune gateway")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .keep_time(True)
        .include_vars(True)
    )


def _variables() -> list[dashboard.DatasourceVariable | dashboard.QueryVariable]:
    source = dashboard.DatasourceVariable("datasource").type("prometheus")
    build = d.BUILD.name
    return [
        source.label("Data source"),
        _choice("namespace", f"label_values({build}, namespace)"),
        _choice("job", f'label_values({build}{{namespace=~"$namespace"}}, job)'),
    ]


def _choice(name: str, query: str) -> dashboard.QueryVariable:
    # All is `.*`, not a list of what is there: that also matches no label at all, and
    # outside of Kubernetes there is no namespace.
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .query(query)
        .datasource(DATASOURCE)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
