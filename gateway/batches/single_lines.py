"""The open chunks whose lines go one by one: a slice of them, by one replica."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from gateway.auth import Principal
from gateway.batches.chunks import COLLECTED_MS, MADE, collection_of, paid_of
from gateway.batches.keeping import Held
from gateway.batches.parts import BatchParts
from gateway.batches.planning import Chunk
from gateway.batches.record import OpenChunk
from gateway.batches.results import Outcome, decode_outcome, encode
from gateway.batches.singly import Waits
from gateway.translation.port import Parse
from policies.jobs.port import JobsUnavailable

# Lines of a batch at a time, if the plan leaves room for as many.
LINES_TOGETHER: Final = 4
# For so long they are run before the rest of the batch is looked at again.
SLICE_S: Final = 2.0
# An answer is offered so soon again to a store that is away.
KEEP_AGAIN_S: Final = 0.5


class SingleLines:
    """Runs them while the plan leaves room, and what died with a replica once more."""

    def __init__(
        self,
        parts: BatchParts,
        held: Held,
        principal: Principal,
        parse: Parse,
        folder: str,
    ) -> None:
        self._parts = parts
        self._held = held
        self._record = held.record
        self._principal = principal
        self._parse = parse
        self._folder = folder
        self._ran_any = False
        # Of lines that found no room.
        self._waits_ms: list[int] = []

    async def run(self) -> int | None:
        """
        Run what the plan leaves room for; in how many ms there may be more, or None.
        """
        until_s = asyncio.get_running_loop().time() + SLICE_S
        for chunk in list(self._record.open):
            if chunk.way == "singly" and self._record.status == "in_progress":
                await self._run_lines(chunk, until_s)
        return 0 if self._ran_any else min(self._waits_ms, default=None)

    async def _run_lines(self, chunk: OpenChunk, until_s: float) -> None:
        lines = await self._parts.desk.read(self._folder, chunk.number)
        known = await self._parts.desk.results(self._record, chunk.number)
        left = [place for place in range(chunk.lines) if place not in known]
        await self._take_over(chunk, lines, known)
        if self._record.status != "in_progress":
            # Cancelled meanwhile: nothing more is begun.
            left = []
        # Taken from the end, by several at once.
        left.reverse()

        async def run_some() -> None:
            loop = asyncio.get_running_loop()
            while left and loop.time() < until_s:
                waits = await self._run_line(chunk, lines, left.pop())
                if waits is not None:
                    self._waits_ms.append(waits.for_ms)
                    return

        await all_or_none(run_some() for _ in range(LINES_TOGETHER))
        # None is under way any more: whoever goes on has nothing to look after.
        chunk.owner = ""
        await self._parts.book.save(self._held)

    async def _take_over(
        self, chunk: OpenChunk, lines: Chunk, known: Mapping[int, bytes]
    ) -> None:
        """
        Hold a chunk's lines, under names of their own each time.

        With an owner, whoever ran it did not come to its end: begun anew, charged once.
        """
        if chunk.owner:
            await self.look_after(chunk, lines, known)
        chunk.attempt += 1
        chunk.owner = self._parts.owner
        await self._parts.book.save(self._held)

    async def look_after(
        self, chunk: OpenChunk, lines: Chunk, known: Mapping[int, bytes]
    ) -> None:
        """
        See to the charges of a replica that died over a chunk.

        What it has answered is charged as it was answered; of what it has not, what was
        reserved is taken back.
        """
        for raw in known.values():
            if raw[:1] == MADE:
                outcome = decode_outcome(raw[1:])
                await self._parts.runner.settle(self._record.caller.workspace, outcome)
        for place, item in enumerate(lines.items):
            if place not in known:
                stem = self._lease_stem(chunk, item.line)
                await self._parts.runner.take_back(self._principal.workspace, stem)

    async def _note_paid(self, chunk: OpenChunk, places: Iterable[int]) -> None:
        """Lines that were charged and whose result is not the one charged for."""
        paid = {str(place): b"" for place in places}
        if paid:
            await self._parts.jobs.collect(
                self._record.caller.workspace,
                paid_of(self._record.id, chunk.number),
                paid,
                COLLECTED_MS,
            )

    def _lease_stem(self, chunk: OpenChunk, line: int) -> str:
        return f"{self._record.id}.line.{line}.{chunk.attempt}"

    async def _run_line(
        self, chunk: OpenChunk, lines: Chunk, place: int
    ) -> Waits | None:
        item = lines.items[place]
        stem = self._lease_stem(chunk, item.line)
        is_paid = place in await self._parts.desk.paid(self._record, chunk.number)
        principal = free_of_charge(self._principal) if is_paid else self._principal
        keep = partial(self._keep, chunk, place)
        return await self._parts.runner.run(principal, item, self._parse, stem, keep)

    async def _keep(self, chunk: OpenChunk, place: int, outcome: Outcome) -> None:
        """Collect it, while its batch is ours for as long as the store is away."""
        self._ran_any = True
        while True:
            try:
                counts = await self._collect(chunk, place, MADE + encode(outcome))
            except JobsUnavailable:
                # It was answered, and perhaps this is all that is left of it.
                await asyncio.sleep(KEEP_AGAIN_S)
                continue
            if not counts:
                await self._note_paid(chunk, (place,))
            return

    async def _collect(self, chunk: OpenChunk, place: int, entry: bytes) -> bool:
        """Whether it counts, or LLMTune's own result that came first after all."""
        jobs, workspace = self._parts.jobs, self._record.caller.workspace
        name = collection_of(self._record.id, chunk.number)
        if await jobs.collect(workspace, name, {str(place): entry}, COLLECTED_MS):
            return True
        # Or it was collected by a call whose answer was lost.
        return (await jobs.collected(workspace, name)).get(str(place)) == entry


def free_of_charge(principal: Principal) -> Principal:
    """For what was paid already: no limit counts it."""
    plan = principal.plan
    free = msgspec.structs.replace(plan, rates=(), quotas=(), concurrency=None)
    return msgspec.structs.replace(principal, plan=free, key_scope=None)


async def all_or_none(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run them at once; when one fails none of the others goes on."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
