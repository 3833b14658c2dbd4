"""
Which of the names that callers can make up have series of their own: the busiest.

A free place is taken by whoever comes first, so that a small deployment sees all of its
names; once all are taken, a name must be twice as busy as the one it displaces. Counts
are halved with each period: a name that was busy last week is displaced by one that is
busy now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from gateway.telemetry.definition import OTHER

# Models that are named: each has some 40 series, and a plan two more. An operator with
# more in daily use reads the rest in traces and access lines.
MOST_MODELS: Final = 25
# Workspaces that are named: three series each, and one for each of their limits.
MOST_WORKSPACES: Final = 20
# At half, one burst displaces a name; at double, a new customer is `_other` for long.
PERIOD_S: Final = 60.0
# Names that are counted while they have no place. Above it the least counted are
# forgotten (Misra and Gries, 1982): whoever has more than this part of all requests is
# never among those.
MAX_CANDIDATES: Final = 1000
# So much busier than the one it displaces, or two alike would change places for ever.
DISPLACES: Final = 2.0


class Busiest:
    """At most `most` names, and how often each was met lately."""

    def __init__(
        self,
        most: int,
        *,
        displaced: Callable[[str], None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`displaced` hears of each name whose series are to be forgotten."""
        self._most = most
        self._displaced = displaced
        self._now_s = now_s
        self._named: dict[str, float] = {}
        self._others: dict[str, float] = {}
        self._ends_s = now_s() + PERIOD_S

    def __contains__(self, name: str) -> bool:
        return name in self._named

    def count(self, name: str, times: int = 1) -> str:
        """Count more of this name; what its label says."""
        try:
            self._named[name] += times
        except KeyError:
            return self._count_other(name, times)
        return name

    def label(self, name: str) -> str:
        """What its label says, without counting it."""
        return name if name in self._named else OTHER

    def _count_other(self, name: str, times: int) -> str:
        if len(self._named) < self._most:
            self._named[name] = times
            return name
        others = self._others
        if name in others:
            others[name] += times
        elif len(others) < MAX_CANDIDATES:
            others[name] = times
        else:
            least = min(others.values())
            self._others = {n: c - least for n, c in others.items() if c > least}
        self.look_at_clock()
        return name if name in self._named else OTHER

    def look_at_clock(self) -> None:
        """
        End a period that is over.

        Looked at beside the names without a place, too: where none came for a week, a
        whole week would stand against the first.
        """
        if self._now_s() >= self._ends_s:
            self._choose()

    def _choose(self) -> None:
        """Begin a new period: who was busy enough in the last one has a place in it."""
        self._ends_s = self._now_s() + PERIOD_S
        named, others = self._named, self._others
        for name in sorted(others, key=others.__getitem__, reverse=True):
            idlest = min(named, key=named.__getitem__)
            if others[name] < DISPLACES * max(named[idlest], 1):
                break
            del named[idlest]
            self._displaced(idlest)
            named[name] = others[name]
        self._named = {name: count / 2 for name, count in named.items()}
        self._others = {
            name: count / 2 for name, count in others.items() if name not in named
        }
