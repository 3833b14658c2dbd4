"""
How full a limit became, and by how much it was exceeded; pure, from what clients saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from tests.proofs.limits import Limit, Unit

# Rate windows are looked at from this many starts of the run.
STARTS: Final = 100
# Of a bucket and its refill; between two questions some of it lies idle.
RATE_FILLED: Final = 0.95


class Served(msgspec.Struct, frozen=True):
    """An admitted request: it was admitted somewhere between the two instants."""

    asked_s: float
    ended_s: float
    tokens: int

    def units(self, of: Unit) -> int:
        return self.tokens if of == "tokens" else 1


class Fill(msgspec.Struct, frozen=True):
    """Units above the limit, and the part of it that was used at its fullest."""

    over: float
    share: float
    is_filled: bool
    figure: str


def fill_of(limit: Limit, served: Sequence[Served], most_running: int) -> Fill:
    """What one workspace made of one limit."""
    if limit.kind == "rate":
        over, share = rate_fill(limit, served)
        return Fill(over, share, share >= RATE_FILLED, f"{share:.1%} of the plan")
    used = sum(answer.units(limit.of) for answer in served)
    if limit.kind == "concurrency":
        used = most_running
    return Fill(
        max(0, used - limit.most),
        used / limit.most,
        used >= limit.most,
        f"{used:,} of {limit.most:,}",
    )


def rate_fill(limit: Limit, served: Sequence[Served]) -> tuple[float, float]:
    """
    The most units above a bucket and its refill in any window, and the fullest share.

    A window counts only those that lie in it whole. A share is of windows in which half
    a bucket was refilled at least: in shorter ones the bucket alone would do.
    """
    spans = sorted((a.ended_s, a.asked_s, a.units(limit.of)) for a in served)
    if not spans:
        return 0.0, 0.0
    over, most = 0.0, 0.0
    refill = 0 if limit.is_total else limit.most / 2
    first_s = min(asked_s for _, asked_s, _ in spans)
    length_s = spans[-1][0] - first_s
    for number in range(STARTS):
        start_s = first_s + length_s * number / STARTS
        units = 0
        for end_s, asked_s, cost in spans:
            if asked_s >= start_s:
                units += cost
                refilled = limit.per_s * (end_s - start_s)
                over = max(over, units - limit.most - refilled)
                if refilled >= refill:
                    most = max(most, units / (limit.most + refilled))
    return over, most
