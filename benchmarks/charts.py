"""
Draws a run's charts: `.cache/bench/charts/bin/python -m benchmarks.charts`.

Reads the file of results and nothing else of this package, as matplotlib has an
environment of its own. One bar is a median over the rounds, its whisker the least and
the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

DEFAULT_INPUT: Final = Path("benchmarks/results.json")
DEFAULT_OUTPUT: Final = Path("docs/images")

_TITLES: Final = {
    "ours-redis": "LLMTune (Redis)",
    "ours-memory": "LLMTune (memory)",
    "ours-1000": "LLMTune (1,000 workspaces)",
    "ferrogw": "ferrogw",
    "portkey": "Portkey",
    "litellm": "LiteLLM",
    "envoy": "Envoy, plain proxy",
    "nginx": "nginx, plain proxy",
}
# Ours stand out, gateways are peers, plain proxies are what a proxy costs at least.
_OURS: Final = "#1f6feb"
_PEER: Final = "#8b949e"
_PROXY: Final = "#d0d7de"


class Chart(NamedTuple):
    """One panel: a figure of one point, for every gateway that has it."""

    point: str
    figure: str
    title: str
    axis: str
    is_log: bool = False


_PAGES: Final[dict[str, tuple[Chart, ...]]] = {
    "benchmark-requests": (
        Chart(
            "whole-32",
            "per_s",
            "Whole completions on one core, 32 connections\nmore is better",
            "requests/s, logarithmic",
            is_log=True,
        ),
    ),
    "benchmark-streams": (
        Chart(
            "streams-500",
            "relay_p99_ms",
            "500 streams of 50 events/s: relay latency\nless is better",
            "ms, p50 and p99, logarithmic",
            is_log=True,
        ),
        Chart(
            "streams-500",
            "cpu_s_per_million",
            "500 streams of 50 events/s: CPU\nless is better",
            "CPU seconds per million events",
        ),
    ),
    "benchmark-memory": (
        Chart(
            "streams-2000",
            "rss_kib_per_stream",
            "Memory of each open stream, of 2,000\nless is better",
            "KiB of resident memory",
        ),
    ),
}


def draw(results: dict[str, Any], folder: Path, form: str) -> list[Path]:
    """Every page that the results have figures for."""
    # Text stays text, and a second drawing of the same results is the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks"})
    mpl.rcParams.update({"font.family": "sans-serif", "font.size": 10})
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, charts in _PAGES.items():
        known = [chart for chart in charts if _rows(results, chart)]
        if known:
            drawn.append(folder / f"{name}.{form}")
            _draw_page(results, known, drawn[-1])
    return drawn


def _draw_page(results: dict[str, Any], charts: list[Chart], file: Path) -> None:
    rows = max(len(_rows(results, chart)) for chart in charts)
    figure, panels = plt.subplots(
        1,
        len(charts),
        figsize=(7.2 * len(charts), 1.5 + 0.42 * rows),
        squeeze=False,
        facecolor="white",
        layout="constrained",
    )
    for panel, chart in zip(panels[0], charts, strict=True):
        _draw_panel(panel, results, chart)
    metadata = {"Date": None} if file.suffix == ".svg" else None
    figure.savefig(file, metadata=metadata, facecolor="white", dpi=120)
    plt.close(figure)


def _draw_panel(panel: Any, results: dict[str, Any], chart: Chart) -> None:
    rows = _rows(results, chart)
    names = [_TITLES[name] for name, _ in rows]
    values = [spread[0] for _, spread in rows]
    whiskers = [
        [middle - low for _, (middle, low, _) in rows],
        [high - middle for _, (middle, _, high) in rows],
    ]
    panel.barh(names, values, color=[_color(name) for name, _ in rows], height=0.62)
    panel.errorbar(
        values, names, xerr=whiskers, fmt="none", ecolor="#24292f", elinewidth=1
    )
    for number, (name, (middle, _, high)) in enumerate(rows):
        panel.annotate(
            _label(results, chart, name, middle),
            (max(high, middle), number),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color="#24292f",
        )
    _draw_medians(panel, results, chart, [name for name, _ in rows])
    if chart.is_log:
        panel.set_xscale("log")
        # A bar from a quarter of the least to the greatest, with room for its label.
        least = min(*values, *_middles(results, chart, [name for name, _ in rows]))
        panel.set_xlim(least / 4, max(high for _, (_, _, high) in rows) * 4)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
    else:
        panel.set_xlim(0, max(high for _, (_, _, high) in rows) * 1.2)
    panel.invert_yaxis()
    panel.set_title(chart.title, loc="left", fontsize=11)
    panel.set_xlabel(chart.axis)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="x", color="#eaeef2", linewidth=0.8)
    panel.set_axisbelow(True)


def _draw_medians(
    panel: Any, results: dict[str, Any], chart: Chart, names: list[str]
) -> None:
    """A mark for p50 on the bars of a p99."""
    if chart.figure != "relay_p99_ms":
        return
    panel.plot(
        _middles(results, chart, names),
        [_TITLES[name] for name in names],
        linestyle="none",
        marker="D",
        markersize=6,
        color="white",
        markeredgecolor="#24292f",
        label="p50",
    )
    panel.legend(loc="lower right", frameon=False)


def _middles(results: dict[str, Any], chart: Chart, names: list[str]) -> list[float]:
    """What is marked on a bar, p50 on that of a p99; elsewhere the bar's own end."""
    figure = "relay_p50_ms" if chart.figure == "relay_p99_ms" else chart.figure
    return [_median(results, chart.point, name, figure) for name in names]


def _label(results: dict[str, Any], chart: Chart, name: str, value: float) -> str:
    if chart.figure != "relay_p99_ms":
        return _short(value)
    middle = _median(results, chart.point, name, "relay_p50_ms")
    return f"{_short(middle)} / {_short(value)}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _median(results: dict[str, Any], point: str, gateway: str, figure: str) -> float:
    middle: float = results["medians"][point][gateway][figure][0]
    return middle


def _rows(
    results: dict[str, Any], chart: Chart
) -> list[tuple[str, tuple[float, float, float]]]:
    """Gateways in a fixed order; one whose answers were errors has no bar."""
    found = results["medians"].get(chart.point, {})
    return [
        (name, tuple(found[name][chart.figure]))
        for name in _TITLES
        if name in found and found[name]["errors"][2] == 0
    ]


def _color(name: str) -> str:
    if name.startswith("ours"):
        return _OURS
    return _PROXY if name in {"envoy", "nginx"} else _PEER


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the charts of a run.")
    parser.add_argument("--input", type=Path, default=DEFAULT_INPUT)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--form", choices=("svg", "png"), default="svg")
    options = parser.parse_args()
    results = json.loads(options.input.read_text())
    for file in draw(results, options.output, options.form):
        print(os.fspath(file))


if __name__ == "__main__":
    main()
