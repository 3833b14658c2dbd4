"""
Panels as they look on every dashboard of ours.

A panel is a title that names a thing, a description that says what is normal and what
to do otherwise, and queries with a legend each.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from grafana_foundation_sdk.builders import (
    common,
    dashboard,
    heatmap,
    prometheus,
    timeseries,
)
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="$datasource")
# Three panels a row, as Grafana divides its width by 24.
WIDTH: Final = 8
HEIGHT: Final = 8

SHARE: Final = units.PercentUnit
SECONDS: Final = units.Seconds
PER_SECOND: Final = units.CountsPerSecond
REQUESTS_PER_SECOND: Final = units.RequestsPerSecond
NUMBER: Final = units.Short

Panel: TypeAlias = timeseries.Panel | heatmap.Panel


class Query(NamedTuple):
    """One line or one family of lines, and what they are called."""

    expr: str
    legend: str
    # Points to the traces behind a latency, where the scraper keeps exemplars.
    has_exemplars: bool = False


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    alert_above: float | None = None,
    is_stacked: bool = False,
    most: float | None = None,
) -> timeseries.Panel:
    """Lines over time; `alert_above` draws the bound of an alert that exists."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .min(0)
        .span(WIDTH)
        .height(HEIGHT)
        .fill_opacity(20 if is_stacked else 6)
        .show_points(common_model.VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
    )
    if most is not None:
        panel.max(most)
    if is_stacked:
        panel.stacking(
            common.StackingConfig().mode(common_model.StackingMode.NORMAL).group("A")
        )
    if alert_above is not None:
        _draw_bound(panel, alert_above)
    for number, query in enumerate(queries):
        panel.with_target(_target(query, number))
    return panel


def spread(title: str, description: str, unit: str, expr: str) -> heatmap.Panel:
    """A histogram over time, every bucket a row: what no quantile shows."""
    target = _target(Query(expr, "{{le}}", has_exemplars=True), 0)
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(WIDTH)
        .height(HEIGHT)
        .calculate(False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .steps(32)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .with_target(target.format(PromQueryFormat.HEATMAP))
    )


def _target(query: Query, number: int) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .range()
        .ref_id(chr(ord("A") + number))
    )
    return target.exemplar(True) if query.has_exemplars else target


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def _draw_bound(panel: timeseries.Panel, bound: float) -> None:
    steps = [
        model.Threshold(value=None, color="transparent"),
        model.Threshold(value=bound, color="red"),
    ]
    panel.thresholds(
        dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)
    )
    panel.thresholds_style(
        common.GraphThresholdsStyleConfig().mode(
            common_model.GraphTresholdsStyleMode.LINE
        )
    )
