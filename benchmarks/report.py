"""The tables of a run: one a point, gateways down, figures across, then the targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.figures import Spread
from benchmarks.gateways import GATEWAYS, Gateway
from benchmarks.results import DIRECT, Results, medians
from benchmarks.targets import Judged
from benchmarks.workloads import WORKLOADS

# Of the load's core, above which the load and not the gateway may have been the limit.
_LOAD_IS_LIMIT: Final = 0.9


class Column(NamedTuple):
    """One figure of a table; `scale` turns shares into per cent."""

    figure: str
    title: str
    form: str = ",.1f"
    scale: float = 1


# Of the gateway's core, above which what else ran there disturbed the figure.
_DISTURBED: Final = 0.1
_BUSY: Final = Column("busy_share", "core used %", ",.0f", 100)
_ERRORS: Final = Column("errors", "errors", ",.0f")
_WHOLE: Final = (
    Column("per_s", "requests/s", ",.0f"),
    Column("p50_ms", "p50 ms", ",.2f"),
    Column("p99_ms", "p99 ms", ",.2f"),
    Column("cpu_ms", "CPU ms/request", ",.3f"),
    _BUSY,
    _ERRORS,
)
COLUMNS: Final[dict[str, tuple[Column, ...]]] = {
    "whole": _WHOLE,
    "telemetry": _WHOLE,
    "traced": _WHOLE,
    "bodies": _WHOLE,
    "rate": (
        Column("p50_ms", "p50 ms", ",.2f"),
        Column("p99_ms", "p99 ms", ",.2f"),
        Column("added_p50_ms", "added p50 ms", ",.2f"),
        Column("added_p99_ms", "added p99 ms", ",.2f"),
        _ERRORS,
    ),
    "rejections": (
        Column("per_s", "429s/s", ",.0f"),
        Column("admitted_per_s", "admitted/s", ",.0f"),
        Column("p99_ms", "p99 ms", ",.2f"),
        Column("cpu_ms", "CPU ms/429", ",.3f"),
        _ERRORS,
    ),
    "streams": (
        Column("events_per_s", "events/s", ",.0f"),
        Column("delivered_share", "delivered %", ",.1f", 100),
        Column("on_time_share", "in 100 ms %", ",.1f", 100),
        Column("relay_p50_ms", "p50 ms", ",.2f"),
        Column("relay_p99_ms", "p99 ms", ",.1f"),
        Column("added_first_token_ms", "added 1st token ms", ",.2f"),
        Column("cpu_s_per_million", "CPU s/million", ",.1f"),
        Column("rss_kib_per_stream", "RSS KiB/stream", ",.1f"),
        _BUSY,
        Column("load_share", "load's core %", ",.0f", 100),
        _ERRORS,
    ),
}


def report(results: Results, judged: Sequence[Judged]) -> str:
    """The whole report, for a terminal."""
    parts = [_machine(results), *_tables(results), *_left_out(results)]
    return "\n\n".join([*parts, _targets(judged)])


def _machine(results: Results) -> str:
    facts, plan = results.machine, results.plan
    versions = ", ".join(f"{name} {what}" for name, what in results.versions.items())
    return (
        f"{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}\n{versions}\n"
        f"{len(results.rounds)} of {plan.rounds} rounds; median [least..greatest]"
    )


def _tables(results: Results) -> Iterator[str]:
    found = medians(results.measured)
    for workload in WORKLOADS:
        for point in workload.points:
            if point.name in found:
                yield f"== {workload.title}: {point.name}\n" + _table(
                    COLUMNS[workload.name], found[point.name]
                )


def _table(columns: Sequence[Column], rows: dict[str, dict[str, Spread]]) -> str:
    lines = [["", *(column.title for column in columns)]]
    notes: list[str] = []
    for gateway in GATEWAYS:
        figures = rows.get(gateway.name)
        if figures is None:
            continue
        cells = [_cell(figures.get(column.figure), column) for column in columns]
        lines.append([gateway.title, *cells])
        notes += _notes(gateway, figures)
    return "\n".join([*_aligned(lines), *notes])


def _cell(found: Spread | None, column: Column) -> str:
    if found is None:
        return "-"
    middle, low, high = (format(v * column.scale, column.form) for v in found)
    return middle if low == high else f"{middle} [{low}..{high}]"


def _notes(gateway: Gateway, figures: dict[str, Spread]) -> Iterator[str]:
    title = gateway.title
    errors, load = figures.get("errors"), figures.get("load_share")
    if errors is not None and errors.high > 0:
        yield f"  ! {title}: up to {errors.high:,.0f} errors: no valid figures"
    others = figures.get("others_share")
    is_pinned = gateway.name != DIRECT
    if is_pinned and others is not None and others.median > _DISTURBED:
        yield f"  ! {title}: others used {others.median:.0%} of its core meanwhile"
    if load is not None and load.high > _LOAD_IS_LIMIT:
        yield f"  ! {title}: the load used {load.high:.0%} of its core, and may limit"


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for name, *cells in lines:
        padded = (cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))
        yield f"  {name.ljust(widths[0])}  " + "  ".join(padded)


def _left_out(results: Results) -> Iterator[str]:
    if results.left_out:
        lines = (
            f"  round {each.round}, {each.gateway}, {each.what}: {each.reason}"
            for each in results.left_out
        )
        yield "\n".join(["== left out", *lines])


def _targets(judged: Iterable[Judged]) -> str:
    lines: list[list[str]] = [["", "bound", "measured", "by round", ""]]
    for each in judged:
        bound = f"{'>=' if each.is_floor else '<='} {each.bound:g}"
        measured = [_number(each.measured), _number(each.by_round)]
        lines.append([each.says, bound, *measured, each.outcome])
    return "\n".join(
        ["== targets: ours with Redis, ratios of medians", *_aligned(lines)]
    )


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,.2f}"
