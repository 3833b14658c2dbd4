"""What the chart's README says of size is what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.helm.rendering import CHART

RESULTS: Final = Path(__file__).parents[2] / "benchmarks" / "results.json"


def test_the_figures_are_those_of_the_benchmarks() -> None:
    """The medians, whose run is in the repository."""
    medians = json.loads(RESULTS.read_text())["medians"]
    whole = medians["whole-32"]["ours-redis"]
    streams = medians["streams-500"]["ours-redis"]
    readme = (CHART / "README.md").read_text(encoding="utf-8")

    cpu_s, events_per_s = streams["cpu_s_per_million"][0], streams["events_per_s"][0]
    for figure in (
        f"{whole['per_s'][0]:,.0f} requests/s",
        f"{cpu_s:.0f} CPU seconds per million events",
        f"{cpu_s * events_per_s / 1e6:.1f} of a core",
        f"{streams['rss_kib_per_stream'][0]:.0f} KiB",
    ):
        assert figure in readme
