"""
What the workers of one replica count, as if one process did.

It adds up by how much each has grown. So no sum falls: not when a worker ends, nor when
a name loses its place in one of them. Each worker names the models and workspaces that
are its own busiest; of all these the busiest are named here, as many as one process
names, and what grows of others is `_other`'s. So the bound on series is the replica's,
however many workers it has and has had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

import msgspec

from gateway.telemetry.busiest import MOST_MODELS, MOST_WORKSPACES, Busiest
from gateway.telemetry.definition import OTHER
from gateway.telemetry.definitions import FIRST_TOKEN, TOKENS, WORKSPACE_REQUESTS
from gateway.telemetry.merging import (
    GROWING,
    Family,
    Key,
    Point,
    Snapshot,
    both,
    key_of,
    merge,
)

# A sample as a process says it, and how much of it is new.
_Growth: TypeAlias = tuple[Family, Key, Point, float]
# What the busiest have most of. A model's first token is told before its tokens are.
_BUSY_BY: Final[Mapping[str, frozenset[str]]] = {
    "model": frozenset({TOKENS.name, f"{FIRST_TOKEN.name}_count"}),
    "workspace": frozenset({WORKSPACE_REQUESTS.name}),
}


class Tally:
    """What processes have counted since each was first heard, and where they stand."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._families: dict[str, Family] = {}
        self._grown: dict[str, dict[Key, Point]] = {}
        # Of each process that lives: what it had counted when it was heard last, and
        # where it stood.
        self._known: dict[int, dict[Key, float]] = {}
        self._standing: dict[int, Snapshot] = {}
        self._named = {
            label: Busiest(most, displaced=partial(self._forget, label), now_s=now_s)
            for label, most in (("model", MOST_MODELS), ("workspace", MOST_WORKSPACES))
        }

    def hear(self, process: int, snapshot: Snapshot) -> None:
        """The newest that a process says of itself."""
        for names in self._named.values():
            names.look_at_clock()
        growth = self._growth(process, snapshot)
        # First who is busy: what grew of a name is counted where it then belongs.
        for label, names in self._named.items():
            for _, _, point, by in growth:
                if by > 0 and point.name in _BUSY_BY[label]:
                    name = point.labels[label]
                    if name != OTHER:
                        names.count(name, int(by))
        for each in growth:
            self._add(each)
        self._standing[process] = [f for f in snapshot if f.kind not in GROWING]

    def forget(self, process: int) -> None:
        """It has ended: what it counted stays, where it stood is over."""
        self._known.pop(process, None)
        self._standing.pop(process, None)

    def snapshot(self) -> Snapshot:
        """What they say together."""
        grown = [
            msgspec.structs.replace(family, points=list(self._grown[name].values()))
            for name, family in self._families.items()
        ]
        standing = [
            msgspec.structs.replace(
                family, points=[each for each in family.points if self._is_shown(each)]
            )
            for family in merge(self._standing.values())
        ]
        return [*grown, *standing]

    def _growth(self, process: int, snapshot: Snapshot) -> list[_Growth]:
        """By how much the samples of a process have grown, where they may have."""
        known: dict[Key, float] = {}
        before, self._known[process] = self._known.get(process, {}), known
        found: list[_Growth] = []
        for family in snapshot:
            if family.kind not in GROWING:
                continue
            self._families.setdefault(family.name, family)
            self._grown.setdefault(family.name, {})
            for point in family.points:
                key = key_of(point)
                value = known[key] = point.value
                last = before.get(key)
                if last == value and not self._named.keys() & point.labels.keys():
                    continue
                # What has fallen has begun anew: a name that had lost its place. And
                # when a series began is no amount.
                if last is None or value < last or point.name.endswith("_created"):
                    found.append((family, key, point, value))
                else:
                    found.append((family, key, point, value - last))
        return found

    def _add(self, growth: _Growth) -> None:
        family, key, point, by = growth
        labels = point.labels
        for label, names in self._named.items():
            if label in labels:
                labels = {**labels, label: names.label(labels[label])}
                key = key_of(Point(point.name, labels, by))
        points = self._grown[family.name]
        seen = points.get(key)
        # Also what has not grown: a series that begins here begins with all of it.
        if seen is None:
            points[key] = Point(point.name, labels, by, point.exemplar)
        elif by:
            grown = Point(point.name, labels, by, point.exemplar)
            points[key] = both(family, seen, grown)

    def _forget(self, label: str, name: str) -> None:
        for points in self._grown.values():
            for key in [k for k, p in points.items() if p.labels.get(label) == name]:
                del points[key]

    def _is_shown(self, point: Point) -> bool:
        return all(
            label not in point.labels or point.labels[label] in names
            for label, names in self._named.items()
        )
