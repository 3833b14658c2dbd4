"""The results of a run as a file: every round's figures, medians, targets, machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from benchmarks.figures import Spread, ratio, spread
from benchmarks.run import LeftOut, Measured, Plan

DIRECT: Final = "direct"
# Memory is of the streams that were open, whatever became of others.
_ALWAYS_VALID: Final = frozenset({"errors", "rss_kib_per_stream"})
_ADDED: Final = ("p50_ms", "p99_ms", "first_token_ms")

# By point, then gateway, then figure.
Medians: TypeAlias = dict[str, dict[str, dict[str, Spread]]]


class Results(msgspec.Struct, frozen=True):
    """Everything that a run found."""

    machine: dict[str, Any]
    versions: dict[str, str]
    plan: Plan
    measured: list[Measured]
    left_out: list[LeftOut]

    def value(self, round_: int, point: str, gateway: str, figure: str) -> float | None:
        """One figure of one round; None where it was not measured, or is not valid."""
        for each in self.measured:
            if (each.round, each.point, each.gateway) == (round_, point, gateway):
                is_valid = figure in _ALWAYS_VALID or not each.figures.get("errors")
                return each.figures.get(figure) if is_valid else None
        return None

    @property
    def rounds(self) -> list[int]:
        return sorted({each.round for each in self.measured})


def with_added(measured: Sequence[Measured]) -> list[Measured]:
    """The same, each with what its gateway adds to the same round's direct latency."""
    direct = {
        (each.round, each.point): each.figures
        for each in measured
        if each.gateway == DIRECT
    }
    completed = []
    for each in measured:
        base = direct.get((each.round, each.point), {})
        added = {
            f"added_{name}": each.figures[name] - base[name]
            for name in _ADDED
            if name in each.figures and name in base
        }
        figures = {**each.figures, **added}
        completed.append(msgspec.structs.replace(each, figures=figures))
    return completed


def medians(measured: Iterable[Measured]) -> Medians:
    """Every figure's median, least and greatest over the rounds."""
    series: dict[str, dict[str, dict[str, list[float]]]] = {}
    for each in measured:
        figures = series.setdefault(each.point, {}).setdefault(each.gateway, {})
        for name, value in each.figures.items():
            figures.setdefault(name, []).append(value)
    found: Medians = {}
    for point, gateways in series.items():
        for gateway, figures in gateways.items():
            spreads = {name: spread(values) for name, values in figures.items()}
            known = {name: s for name, s in spreads.items() if s is not None}
            found.setdefault(point, {})[gateway] = known
    return found


class Place(msgspec.Struct, frozen=True):
    """Where a figure is found: at a point, for a gateway, by its name."""

    point: str
    gateway: str
    figure: str

    def value(self, results: Results, number: int) -> float | None:
        return results.value(number, self.point, self.gateway, self.figure)

    def rounds_tried(self, results: Results) -> int:
        """In how many rounds it was asked for, whether or not it has a valid figure."""
        wanted = (self.point, self.gateway)
        measured = [e for e in results.measured if (e.point, e.gateway) == wanted]
        missing = [each for each in results.left_out if each.gateway == self.gateway]
        return len(measured) or len(missing)

    def rounds_valid(self, results: Results) -> set[int]:
        return {n for n in results.rounds if self.value(results, n) is not None}

    def median(self, results: Results, rounds: Iterable[int]) -> float | None:
        """The median over these rounds."""
        values = [self.value(results, number) for number in rounds]
        middle = spread([value for value in values if value is not None])
        return middle.median if middle else None


def ratio_of_rounds(results: Results, over: Place, under: Place) -> float | None:
    """The median of the ratios within each round, which a drifting machine spares."""
    ratios = []
    for number in results.rounds:
        found = ratio(over.value(results, number), under.value(results, number))
        if found is not None:
            ratios.append(found)
    middle = spread(ratios)
    return middle.median if middle else None


def to_json(results: Results, judged: list[Any]) -> bytes:
    """The file: indented, with medians and judged targets beside the raw figures."""
    content = {
        **msgspec.to_builtins(results),
        "medians": medians(results.measured),
        "targets": judged,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
