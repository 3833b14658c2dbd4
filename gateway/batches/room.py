"""Room for one more chunk: in the budgets, and in what a plan's batches may enqueue."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from gateway.auth import Principal
from gateway.batches.enqueued import Enqueued, UnderWay
from gateway.batches.parts import BatchParts
from gateway.batches.planning import Chunk
from gateway.batches.record import BatchRecord, OpenChunk, Way
from gateway.demands import is_suspended
from gateway.errors import StoreUnavailable
from policies.ledger import Admitted, Decision, Rejected, Usage

# Without a word from anybody.
LOOK_AGAIN_MS: Final = 5_000
WAIT_FOR_ROOM_MS: Final = 1_000
# Of a batch that has nothing under way: there may be hundreds in line behind others,
# and each look reads its next chunk.
WAIT_IN_LINE_MS: Final = 5_000
# Of a budget's hours or days, because somebody may raise the plan meanwhile.
LONGEST_WAIT_MS: Final = 60_000
# Later by up to so much, so that those who wait for one window do not come as one.
JITTER: Final = 0.1
# Of the batches that are in the way, those that one look looks up for having ended.
LOOKED_UP: Final = 4

_random: Final = random.Random()  # noqa: S311 - spreads, guards nothing


class Room:
    """What one batch may begin beside all others of its workspace; JobsUnavailable."""

    def __init__(
        self, parts: BatchParts, record: BatchRecord, principal: Principal
    ) -> None:
        self._parts = parts
        self._record = record
        self._principal = principal
        self._enqueued = Enqueued(parts.jobs)
        # Until there may be more.
        self.waits_ms: list[int] = []

    def wait_ms(self) -> int:
        """Until its batch has to be looked at again; never beyond its day."""
        waits_ms = [*self.waits_ms, LONGEST_WAIT_MS]
        is_told = any(chunk.way == "together" for chunk in self._record.open)
        if is_told or not self.waits_ms:
            waits_ms.append(LOOK_AGAIN_MS)
        wait_ms = int(min(waits_ms) * (1 + JITTER * _random.random()))
        left_s = self._record.expires_at - self._parts.now_s()
        return max(0, min(wait_ms, int(left_s * 1000)))

    async def take(self, lines: Chunk) -> Way | None:
        """Hold what one more chunk takes, and by which way it goes; None to wait."""
        way = await self._way_of(lines)
        if way is None or not await self._grow(lines, way):
            return None
        return way

    async def _way_of(self, lines: Chunk) -> Way | None:
        if is_suspended(self._principal):
            self.waits_ms.append(LONGEST_WAIT_MS)
            return None
        decision = await self._look(Usage(len(lines.items), lines.tokens))
        if isinstance(decision, Rejected) and decision.reason == "too_large":
            # More than a whole budget, which each of its lines has to find room in.
            return "singly"
        if not isinstance(decision, Admitted):
            wait_ms = decision and decision.retry_after_ms
            self.waits_ms.append(wait_ms or WAIT_FOR_ROOM_MS)
            return None
        return lines.way if self._parts.tickets.is_open else "singly"

    async def _look(self, usage: Usage) -> Decision | None:
        """What the budgets say to so much; None where the ledger cannot tell."""
        try:
            return await self._parts.admission.look_at_budgets(self._principal, usage)
        except StoreUnavailable:
            return None

    async def _grow(self, lines: Chunk, way: Way) -> bool:
        async def affords(uncharged: Usage) -> bool:
            # Each of the single lines is admitted by itself.
            return way == "singly" or isinstance(await self._look(uncharged), Admitted)

        record = self._record
        chunk = OpenChunk(record.next_chunk, way, len(lines.items), lines.tokens, 0)
        has_room = await self._enqueued.grow(
            record.caller.workspace,
            record.id,
            _under_way([*record.open, chunk]),
            self._principal.plan.batch,
            affords,
        )
        if not has_room:
            self.waits_ms.append(WAIT_FOR_ROOM_MS if record.open else WAIT_IN_LINE_MS)
            await self._forget_ended()
        return has_room

    async def _forget_ended(self) -> None:
        """What a driver that was late has noted of a batch that had ended by then."""
        workspace = self._record.caller.workspace
        held = await self._enqueued.batches(workspace)
        others = [each for each in held if each != self._record.id]
        for each in _random.sample(others, min(LOOKED_UP, len(others))):
            found = await self._parts.book.find(workspace, each)
            if found is None or found.record.has_ended:
                await self._enqueued.set(workspace, each, UnderWay())

    async def shrink(self) -> None:
        """Hold no more than what is open."""
        record = self._record
        await self._enqueued.set(
            record.caller.workspace, record.id, _under_way(record.open)
        )


def _under_way(chunks: Iterable[OpenChunk]) -> UnderWay:
    every = list(chunks)
    together = [each for each in every if each.way == "together"]
    return UnderWay(
        sum(each.tokens for each in every),
        sum(each.lines for each in together),
        sum(each.tokens for each in together),
    )
