"""
What every part of a run shares: the looks, the asks, the waits, and the time left.

Everything asked and answered is noted in the evidence here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.conformance.charges import (
    RELEASE_GRACE_S,
    SETTLE_GRACE_S,
    is_quiet_since,
)
from gateway.conformance.deployment import Ask, Deployment
from gateway.conformance.findings import Skip
from gateway.conformance.observations import (
    Attempt,
    Evidence,
    PreviewTrial,
    Snapshot,
)
from gateway.conformance.progress import Progress
from gateway.conformance.spending import Options
from gateway.conformance.streams import OpenStream

# How often a place that must come back is looked for.
POLL_S: Final = 0.02
# Waited for between two parts, so that one does not starve the next.
LONGEST_REFILL_S: Final = 12.0
# What is kept of the time for the last look.
CLOSING_S: Final = 3.0


class Session:
    """The deployment under measurement, and what was seen of it so far."""

    def __init__(
        self,
        deployment: Deployment,
        evidence: Evidence,
        options: Options,
        progress: Progress,
    ) -> None:
        self.deployment = deployment
        self.evidence = evidence
        self.options = options
        self.progress = progress
        self._until_s = time.perf_counter() + options.seconds

    @property
    def left_s(self) -> float:
        return self._until_s - CLOSING_S - time.perf_counter()

    @property
    def is_over(self) -> bool:
        return time.perf_counter() > self._until_s

    def leave_out(self, subject: str, why: Skip) -> None:
        """Note why something was not tried; the report says it."""
        self.evidence.untried[subject] = why

    async def look(self, replica: int) -> Snapshot:
        look = await self.deployment.look(replica)
        self.evidence.snapshots.append(look)
        # An event may be on its way for as long as a whole exchange takes, twice.
        took_s = look.answered_s - look.sent_s
        self.evidence.margin_s = max(self.evidence.margin_s, 2 * took_s)
        return look

    async def look_everywhere(
        self, has_changed: Callable[[], bool] = lambda: False
    ) -> None:
        """One round: each replica is asked; void if something of ours has changed."""
        looks = [await self.look(replica) for replica in self.deployment.replicas]
        if not has_changed():
            self.evidence.rounds.append(tuple(looks))

    async def until_settled(
        self, replica: int, grace_s: float = SETTLE_GRACE_S
    ) -> tuple[Snapshot, bool]:
        """Look until nothing is in flight, for as long as a place may take."""
        until_s = time.perf_counter() + RELEASE_GRACE_S
        await asyncio.sleep(grace_s)
        while True:
            look = await self.look(replica)
            if look.is_settled or time.perf_counter() > until_s:
                return look, look.is_settled
            await asyncio.sleep(POLL_S)

    async def until_room(
        self, requests: int, tokens: int, most_s: float = LONGEST_REFILL_S
    ) -> bool:
        """Wait until the rates have this much left; whether that was short enough."""
        wait_s = 0.0
        for limit in (await self.look(0)).enforced:
            units = requests if limit.of == "requests" else tokens
            missing = min(units, limit.capacity) - limit.remaining
            if limit.kind == "rate" and missing > 0:
                # One more, for the unit begun that already counts as used.
                wait_s = max(wait_s, (missing + 1) / limit.refill_per_s)
        if wait_s > min(most_s, self.left_s):
            return False
        if wait_s:
            self.progress.step(f"waiting {wait_s:.1f} s for refill")
            await asyncio.sleep(wait_s)
        return True

    async def complete(self, ask: Ask, replica: int | None = None) -> Attempt:
        """One whole answer, from the replica whose turn it is."""
        if replica is None:
            replica = self.deployment.next_replica()
        attempt = await self.deployment.complete(replica, ask)
        self.evidence.attempts.append(attempt)
        return attempt

    async def complete_previewed(self, ask: Ask, replica: int) -> Attempt:
        """The same, after asking whether it would pass."""
        attempts = self.evidence.attempts
        is_quiet = is_quiet_since(attempts, time.perf_counter())
        preview = await self.deployment.preview(replica, ask)
        attempt = await self.complete(ask, replica)
        if preview is None:
            why = Skip("no-preview", "the deployment does not answer previews")
            self.leave_out("preview", why)
        else:
            trial = PreviewTrial(preview=preview, attempt=attempt, is_quiet=is_quiet)
            self.evidence.previews.append(trial)
        return attempt

    async def open(self, ask: Ask, replica: int | None = None) -> OpenStream | None:
        """A stream, if it is let in; whoever gets it must close it."""
        if replica is None:
            replica = self.deployment.next_replica()
        attempt, stream = await self.deployment.open(replica, ask)
        self.evidence.attempts.append(attempt)
        return stream

    async def close(self, stream: OpenStream) -> None:
        """Close a stream and note how long it was open."""
        await stream.close()
        self.evidence.streams.append(stream.seen)


async def sleep_until(instant_s: float) -> None:
    # The loop's timers may fire a millisecond early; a promise is waited for in full.
    while (left_s := instant_s - time.perf_counter()) > 0:  # noqa: ASYNC110 - no event
        await asyncio.sleep(left_s)
