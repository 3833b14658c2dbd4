"""Batches as they are kept: made, found, listed, and saved by whoever drives one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.background.starting import item_of, start
from gateway.batches.record import KIND, BatchRecord, decode_batch, encode_batch
from policies.jobs.port import JobStore, RecordName

QUEUE: Final = "batches"

# How long its record can be asked for; its files have ends of their own.
TTL_MS: Final = 90 * 86_400_000

# Only a cancellation comes between a driver's reading and its writing, and only once.
MOST_TRIES: Final = 5


class Held(msgspec.Struct):
    """A batch, and as which version it was read."""

    record: BatchRecord
    version: int


class LostBatch(Exception):
    """Somebody else drives it, or it is gone."""


class BatchBook:
    """The batches of all workspaces; JobsUnavailable."""

    def __init__(
        self, jobs: JobStore, ended: Callable[[BatchRecord], None] = lambda _: None
    ) -> None:
        """`ended` hears of each batch once, from whoever wrote that it has ended."""
        self.jobs = jobs
        self._ended = ended

    async def add(self, record: BatchRecord) -> bool:
        """Keep a new one, and have it driven; False if it is there already."""
        name, body = _name_of(record), encode_batch(record)
        return await start(self.jobs, QUEUE, name, body, TTL_MS)

    async def wake(self, workspace: str, batch_id: str) -> None:
        """Something happened to it that its driver should see."""
        await self.jobs.schedule(QUEUE, item_of(RecordName(workspace, KIND, batch_id)))

    async def find(self, workspace: str, batch_id: str) -> Held | None:
        """One batch, or None."""
        kept = await self.jobs.read(RecordName(workspace, KIND, batch_id))
        return None if kept is None else Held(decode_batch(kept.body), kept.version)

    async def page(
        self, workspace: str, *, after: str | None, limit: int
    ) -> Sequence[BatchRecord]:
        """The newest first."""
        found = await self.jobs.page(workspace, KIND, after=after, limit=limit)
        return [decode_batch(each.body) for each in found]

    async def cancel(self, held: Held, now_s: int) -> bool:
        """Have it cancelled by whoever drives it; False if it changed meanwhile."""
        held.record.become("cancelling", now_s)
        return await self._replace(held)

    async def save(self, held: Held) -> None:
        """
        Write what its driver knows; LostBatch if somebody else did.

        A cancellation that came meanwhile is kept.
        """
        for _ in range(MOST_TRIES):
            if await self._replace(held):
                return
            record = held.record
            found = await self.find(record.caller.workspace, record.id)
            if found is None or found.record.status != "cancelling":
                break
            held.version = found.version
            if record.status == "in_progress":
                cancelled_s = found.record.moments.cancelling
                record.become("cancelling", cancelled_s or record.created_at)
        raise LostBatch

    async def _replace(self, held: Held) -> bool:
        name, body = _name_of(held.record), encode_batch(held.record)
        is_done = await self.jobs.replace(name, body, held.version)
        held.version += is_done
        # Saved once more when it was told of.
        if is_done and held.record.has_ended and not held.record.is_told:
            self._ended(held.record)
        return is_done


def _name_of(record: BatchRecord) -> RecordName:
    return RecordName(record.caller.workspace, KIND, record.id)
