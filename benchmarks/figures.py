"""The arithmetic of a run: percentiles within a round, medians over the rounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """One figure over the rounds."""

    median: float
    low: float
    high: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of values in ascending order; NaN of none."""
    if not ordered:
        return math.nan
    rank = math.ceil(share * len(ordered))
    return ordered[max(rank, 1) - 1]


def spread(values: Sequence[float]) -> Spread | None:
    """Median, least and greatest; None where no round has the figure."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known))


def ratio(over: float | None, under: float | None) -> float | None:
    """A ratio of two figures, or None where either is missing or the lower is none."""
    if over is None or under is None or under <= 0:
        return None
    return over / under
