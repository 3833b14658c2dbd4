"""What a proof has found: a figure, whether it is as promised, and the last line."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One figure and whether it is as it should be."""

    name: str
    figure: str
    is_good: bool = True


def report(checks: Sequence[Check]) -> int:
    """Print them all; the exit code."""
    for check in checks:
        print(f"{'ok  ' if check.is_good else 'FAIL'} {check.name}: {check.figure}")
    failed = sum(not check.is_good for check in checks)
    print(f"{len(checks) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def quantile(figures: Sequence[float], part: float) -> float:
    """The figure below which this part of them lies."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))]
