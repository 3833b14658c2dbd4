"""
The leases a dead replica left, as Redis has them, and what must become of them.

Each has its own end and its own last progress, so what follows is known to the unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from policies.estimate import estimate_text_tokens
from tests.proofs.check import Check
from tests.proofs.lean_client import prompt
from tests.proofs.redis_state import Footprint

# What a client of the upstream's stream is sent with each event.
WORD: Final = "word "
# A progress is as old as its lease's last renewal; streams begin one after the other,
# and not at an even pace.
PROGRESS_MAY_DIFFER: Final = 0.3


class Look(msgspec.Struct, frozen=True):
    """Places said to be taken, at some instant between two."""

    before_us: int
    used: int
    after_us: int


class Abandoned:
    """Leases nobody renews any more."""

    def __init__(self, left: Footprint, *, ttl_us: int, events: int) -> None:
        """`left` is read after the kill, and before the first of them has ended."""
        self._left = left
        self._ttl_us = ttl_us
        self._prompt = prompt("ws-doomed", events=events)
        self._progress = {k: charge.progress for k, charge in left.charges.items()}

    @property
    def first_end_us(self) -> int:
        return min(self._left.held.values(), default=0)

    @property
    def last_end_us(self) -> int:
        return max(self._left.held.values(), default=0)

    def held_check(self, expected: int) -> Check:
        """All of them are held, and each has reported."""
        held, reported = self._left.held, sum(map(bool, self._progress.values()))
        figure = f"{len(held)} held, {reported} have reported"
        is_good = len(held) == reported == expected
        is_good &= held.keys() == self._progress.keys()
        return Check("leases it left", figure, is_good)

    def progress_check(self, begun_us: int, killed_us: int, events: float) -> Check:
        """
        What was reported is what had been streamed by the last renewal.

        `events` is how many a stream had been sent at the kill.
        """
        words = events / (killed_us - begun_us)
        expected = 0.0
        for end_us in self._left.held.values():
            renewed_us = end_us - self._ttl_us
            streamed = words * (renewed_us - begun_us) * len(WORD) / 4
            expected += estimate_text_tokens(self._prompt) + streamed
        reported = sum(self._progress.values())
        is_good = abs(reported - expected) <= PROGRESS_MAY_DIFFER * expected
        figure = f"{reported:,}, some {expected:,.0f} by the upstream's pace"
        return Check("tokens they reported", figure, is_good)

    def looks_check(self, looks: Sequence[Look]) -> Check:
        """None gives its place back before its own end, nor keeps it longer."""
        ends_us = list(self._left.held.values())
        early = late = 0
        for look in looks:
            early += look.used < sum(end_us > look.after_us for end_us in ends_us)
            late += look.used > sum(end_us > look.before_us for end_us in ends_us)
        figure = f"{early} early, {late} late, in {len(looks)} looks"
        is_good = not early and not late and len(looks) > 0
        return Check("places freed at each lease's end", figure, is_good)

    def charged_check(
        self, name: str, limits: dict[str, Any], *, requests: int = 0, tokens: int = 0
    ) -> Check:
        """The workspace was charged their progress, and what was answered since."""
        used = (
            limits["requests-per-calendar-month"]["used"],
            limits["tokens-per-calendar-month"]["used"],
        )
        tokens += sum(self._progress.values())
        expected = (len(self._progress) + requests, tokens)
        figure = f"{used[0]:,} requests and {used[1]:,} tokens"
        figure += f", of {expected[0]:,} and {expected[1]:,}"
        return Check(name, figure, used == expected)

    def kept_check(self, kept: Footprint) -> Check:
        """Nothing is held; each is kept as abandoned, charged at its progress."""
        charged = {k: charge.charged for k, charge in kept.charges.items()}
        is_good = not kept.held and not any(map(any, kept.places))
        is_good &= charged == self._progress and kept.abandoned == charged.keys()
        figure = f"{len(kept.held)} held, {len(kept.abandoned)} abandoned"
        return Check("leases in Redis", f"{figure}, places {kept.places}", is_good)
