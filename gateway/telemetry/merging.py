"""
What several processes say of themselves at one moment, as if one had.

Pure: snapshots in, a snapshot out. What grows (counters, histograms) is summed series
by series; a gauge is merged as its definition says. One that is in no definition is
summed, unless `_MERGES` knows better.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

import msgspec

from gateway.telemetry.definition import Merge
from gateway.telemetry.definitions import DEFINITIONS

# These kinds count what has happened, so they outlive who counted it.
GROWING: Final = frozenset({"counter", "histogram", "summary"})
_MERGES: Final[dict[str, Merge]] = {
    **{each.name: each.merge for each in DEFINITIONS},
    # prometheus_client's own, of the process: what is left of these is a sum.
    "process_start_time_seconds": "min",
    "process_max_fds": "min",
}


class Exemplar(msgspec.Struct, frozen=True, array_like=True):
    """One observation out of those that a sample counts."""

    labels: dict[str, str]
    value: float
    at_s: float | None = None


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One sample of a metric: a line of what a scraper reads."""

    name: str
    labels: dict[str, str]
    value: float
    exemplar: Exemplar | None = None


class Family(msgspec.Struct, frozen=True, array_like=True):
    """A metric with all its samples; `kind` is prometheus_client's type."""

    name: str
    text: str
    kind: str
    points: list[Point]


# All that one process shows, at one moment.
Snapshot: TypeAlias = list[Family]
Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of what these say together, in the order in which they say it."""
    families: dict[str, Family] = {}
    points: dict[str, dict[Key, Point]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            first = families.setdefault(family.name, family)
            merged = points.setdefault(family.name, {})
            for point in family.points:
                key = key_of(point)
                seen = merged.get(key)
                merged[key] = point if seen is None else both(first, seen, point)
    return [
        msgspec.structs.replace(family, points=list(points[name].values()))
        for name, family in families.items()
    ]


def key_of(point: Point) -> Key:
    """Which sample it is, whoever says it."""
    return point.name, tuple(sorted(point.labels.items()))


def both(family: Family, one: Point, other: Point) -> Point:
    """One sample of what two say."""
    rule = _rule(family, one.name)
    if rule == "sum":
        value = one.value + other.value
    elif rule == "max":
        value = max(one.value, other.value)
    else:
        value = min(one.value, other.value)
    exemplar = _newest(one.exemplar, other.exemplar)
    return Point(one.name, one.labels, value, exemplar)


def _rule(family: Family, sample: str) -> Merge:
    if family.kind in GROWING:
        # When a series began: a sum of two moments is none.
        return "min" if sample == f"{family.name}_created" else "sum"
    if family.kind in {"info", "stateset"}:
        return "max"
    return _MERGES.get(sample, "sum")


def _newest(one: Exemplar | None, other: Exemplar | None) -> Exemplar | None:
    if one is None or other is None:
        return one or other
    return one if (one.at_s or 0.0) >= (other.at_s or 0.0) else other
