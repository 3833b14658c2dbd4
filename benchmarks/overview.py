"""
Draws the overview's main panels from what a Prometheus has answered.

`python -m benchmarks.overview figures.json picture.png`; the figures are written by
`python -m tests.proofs.telemetry --figures`. It runs in the charts' own environment,
where nothing of ours is installed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("Agg")  # before pyplot: there is no screen
import matplotlib.pyplot as plt

COLUMNS: Final = 3
_UNITS: Final = {
    "percentunit": "share",
    "s": "seconds",
    "reqps": "requests/s",
    "cps": "tokens/s",
    "short": "",
}


def draw(panels: list[dict[str, Any]], picture: Path) -> None:
    """One axis a panel, in the dashboard's order."""
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(
        rows, COLUMNS, figsize=(5.2 * COLUMNS, 2.9 * rows), layout="constrained"
    )
    for axis, panel in zip(axes.flat, panels, strict=False):
        _panel(axis, panel)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    figure.savefig(picture, dpi=80)


def _panel(axis: Any, panel: dict[str, Any]) -> None:
    axis.set_title(panel["title"], fontsize=11, loc="left", fontweight="bold")
    axis.set_ylabel(_UNITS.get(panel["unit"], panel["unit"]), fontsize=8)
    axis.set_xlabel("seconds since the load began", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    for name, points in panel["lines"]:
        seconds, values = zip(*points, strict=True)
        axis.plot(seconds, values, linewidth=1.6, label=name)
    axis.set_ylim(bottom=0)
    if panel["lines"]:
        axis.legend(fontsize=7, loc="best", framealpha=0.8, ncols=2)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
