"""
The arithmetic of proof: what a limit can and must have counted at an instant.

A charge happened at an unknown moment between `earliest_s` and `latest_s`. A bucket of
capacity C that refills r a second has used, at instant x, the largest of
sum(charges in [s, x]) - r * (x - s) over all s. Counting only charges that must lie in
[s, x] gives the least it can have used, counting all that may lie there gives the most.
Whatever a gateway says between the two is right; beyond them it is provably wrong. A
quota is a bucket that does not refill, so one arithmetic judges both.

Two facts of settlement keep this sound for tokens. A refund never fills a bucket
beyond its top, so really used tokens, charged when admitted, are a lower bound. And
until an answer has ended and been settled its whole reservation may count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

# The largest rate at which adjtime(2) slews a server's clock: 500 parts per million.
CLOCK_SLEW: Final = 500e-6

# Sums of floats; a unit is a whole token or request.
EPSILON: Final = 1e-6


class Bucket(msgspec.Struct, frozen=True):
    """A rate, or with no refill a quota."""

    capacity: int
    refill_per_s: float = 0.0


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """Units that were, or may have been, taken between two instants."""

    earliest_s: float
    latest_s: float
    certain: float
    # The most it can have counted until `settled_s`, and from then on.
    possible: float
    settled_s: float = float("inf")
    settled: float = 0.0

    def possible_at(self, instant_s: float) -> float:
        return self.possible if instant_s <= self.settled_s else self.settled


def least_used(bucket: Bucket, charges: Iterable[Charge], at_s: float) -> float:
    """What must have been used by then, wherever in its interval each charge lies."""
    inside = [c for c in charges if c.latest_s <= at_s]
    inside.sort(key=lambda charge: charge.earliest_s, reverse=True)
    # A slewed clock of the server's may have seen a little more time pass than ours.
    refill_per_s = bucket.refill_per_s * (1 + CLOCK_SLEW)
    least = total = 0.0
    for charge in inside:
        total += charge.certain
        least = max(least, total - refill_per_s * (at_s - charge.earliest_s))
    return least


def most_used(bucket: Bucket, charges: Iterable[Charge], at_s: float) -> float:
    """What may have been used at that instant at most."""
    begun = [c for c in charges if c.earliest_s <= at_s]
    begun.sort(key=lambda charge: charge.latest_s, reverse=True)
    refill_per_s = bucket.refill_per_s * (1 - CLOCK_SLEW)
    most = total = 0.0
    for charge in begun:
        total += charge.possible_at(at_s)
        since_s = at_s - min(charge.latest_s, at_s)
        most = max(most, total - refill_per_s * since_s)
    return most


def most_used_between(
    bucket: Bucket, charges: Sequence[Charge], from_s: float, until_s: float
) -> float:
    """The most that may have been used at any instant between two."""
    # Use only rises when a charge begins, so those instants and the first are enough.
    begins = (c.earliest_s for c in charges if from_s < c.earliest_s <= until_s)
    return max(most_used(bucket, charges, at_s) for at_s in (from_s, *begins))


def peak_use(bucket: Bucket, charges: Sequence[Charge]) -> float:
    """The most that was provably used at any instant; above capacity is too much."""
    # Once here: sorting again what is sorted, at each instant, costs little.
    charges = sorted(charges, key=lambda charge: charge.earliest_s, reverse=True)
    instants = {charge.latest_s for charge in charges}
    return max((least_used(bucket, charges, at_s) for at_s in instants), default=0.0)


def peak_overlap(intervals: Iterable[tuple[float, float]]) -> int:
    """How many of these were open at one instant; an end no longer counts."""
    edges: list[tuple[float, int]] = []
    for begin_s, end_s in intervals:
        if end_s > begin_s:
            edges += [(begin_s, 1), (end_s, -1)]
    most = now = 0
    # At the same instant the ends come first.
    for _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most
