"""
PromQL, apart from panels and alerts: each function is one way to ask of one metric.

A scope says of whom is asked and over how long, so that dashboards and rules share the
functions. What a metric cannot be asked is refused here: a gauge under `rate`, a
counter without it, or a label that the metric does not have.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.telemetry.definition import Definition, Kind

# What Prometheus adds to every series of ours by itself. A scrape outside of Kubernetes
# gives no namespace, which `by` and `=~` both take for an empty one.
TARGET_LABELS: Final = ("namespace", "job", "instance")
# What rules keep apart: deployments.
DEPLOYMENT: Final = ("namespace", "job")


class Scope(NamedTuple):
    """Of whom is asked, and over how long."""

    selector: str
    window: str


# What a reader of a dashboard has chosen.
BOARD: Final = Scope('job=~"$job",namespace=~"$namespace"', "$__rate_interval")


def everyone(window: str) -> Scope:
    """The scope of rules: whoever has our metrics, over a time of the rule's own."""
    return Scope("", window)


def rate(
    metric: Definition, *by: str, where: str = "", scope: Scope = BOARD, of: str = ""
) -> str:
    """A counter's increase each second; of a histogram, that of its `_count`."""
    return _sum("rate", metric, by, where, scope, of)


def increase(
    metric: Definition, *by: str, where: str = "", scope: Scope = BOARD, of: str = ""
) -> str:
    """By how much a counter grew within the scope's window."""
    return _sum("increase", metric, by, where, scope, of)


def share(part: str, whole: str, *but: str) -> str:
    """
    A part of a whole, `but` being labels that only the part has.

    Nothing while there is no whole: 0/0 is no share of anything.
    """
    if not but:
        return f"{part}\n/\n({whole} > 0)"
    return f"{part}\n/ ignoring ({', '.join(but)}) group_left ()\n({whole} > 0)"


def quantile(
    q: float, histogram: Definition, *by: str, where: str = "", scope: Scope = BOARD
) -> str:
    """A quantile of all that `by` keeps together; quantiles are never averaged."""
    asked = buckets(histogram, *by, where=where, scope=scope)
    return f"histogram_quantile({q:g}, {asked})"


def buckets(
    histogram: Definition, *by: str, where: str = "", scope: Scope = BOARD
) -> str:
    """A histogram's buckets, as quantiles and heatmaps are made from."""
    return _sum("rate", histogram, (*by, "le"), where, scope, "_bucket")


def gauge(
    fold: str, metric: Definition, *by: str, where: str = "", scope: Scope = BOARD
) -> str:
    """What a gauge says now, folded by `sum`, `max`, `min`, `count` or `group`."""
    return f"{_fold(fold, metric, by)} ({series(metric, where, scope)})"


def series(metric: Definition, where: str = "", scope: Scope = BOARD) -> str:
    """A gauge as it is."""
    _expect(metric, "gauge", "info")
    _expect_labels(metric, _matched(where))
    return _select(metric.name, where, scope)


def recent(metric: Definition, window: str) -> str:
    """What a gauge said last, also of those that have fallen silent since."""
    return f"last_over_time({series(metric, scope=everyone(window))}[{window}])"


def or_zero(query: str, present: str) -> str:
    """A query, 0 where it has nothing yet although what it belongs to is present."""
    return f"(({query}) or 0 * ({present}))"


def _sum(
    function: str,
    metric: Definition,
    by: tuple[str, ...],
    where: str,
    scope: Scope,
    of: str,
) -> str:
    _expect(metric, "counter", "histogram")
    _expect_labels(metric, _matched(where))
    suffix = of or ("_count" if metric.kind == "histogram" else "")
    selected = _select(metric.name + suffix, where, scope)
    return f"{_fold('sum', metric, by)} ({function}({selected}[{scope.window}]))"


def _fold(fold: str, metric: Definition, by: tuple[str, ...]) -> str:
    _expect_labels(metric, by)
    return f"{fold} by ({', '.join(by)})" if by else fold


def _select(name: str, where: str, scope: Scope) -> str:
    matchers = ",".join(part for part in (where, scope.selector) if part)
    return f"{name}{{{matchers}}}" if matchers else name


def _matched(where: str) -> tuple[str, ...]:
    """The labels that matchers name."""
    return tuple(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", where))


def _expect(metric: Definition, *kinds: Kind) -> None:
    if metric.kind not in kinds:
        raise ValueError(f"{metric.name} is a {metric.kind}, and cannot be asked this")


def _expect_labels(metric: Definition, labels: tuple[str, ...]) -> None:
    extra = ("le",) if metric.kind == "histogram" else ()
    unknown = set(labels) - {*metric.labels, *TARGET_LABELS, *extra}
    if unknown:
        raise ValueError(f"{metric.name} has no {', '.join(sorted(unknown))}")
