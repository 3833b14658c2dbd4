"""Fine-tunes as they are kept: made, found, listed, and saved by whoever drives one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from gateway.background.starting import item_of, start
from gateway.fine_tuning.record import KIND, TuneRecord, decode_tune, encode_tune
from policies.jobs.port import MAX_LISTED, JobStore, RecordName

QUEUE: Final = "fine_tunes"
# How long it can be asked for; the model that it made stays.
TTL_MS: Final = 365 * 86_400_000
# What webhooks say is of use until the job has ended.
TOLD_MS: Final = 90 * 86_400_000


class HeldTune(msgspec.Struct):
    """A fine-tune, and as which version it was read."""

    record: TuneRecord
    version: int


class LostTune(Exception):
    """Somebody else changed it: it was cancelled, or has another driver."""


class TuneBook:
    """The fine-tunes of all workspaces; JobsUnavailable."""

    def __init__(self, jobs: JobStore) -> None:
        self.jobs = jobs

    async def add(self, record: TuneRecord) -> bool:
        """Keep a new one, and have it driven; False if it is there already."""
        name, body = _name_of(record), encode_tune(record)
        return await start(self.jobs, QUEUE, name, body, TTL_MS)

    async def wake(self, workspace: str, job_id: str) -> None:
        """Something happened to it that its driver should see."""
        await self.jobs.schedule(QUEUE, item_of(RecordName(workspace, KIND, job_id)))

    async def find(self, workspace: str, job_id: str) -> HeldTune | None:
        """One fine-tune, or None."""
        kept = await self.jobs.read(RecordName(workspace, KIND, job_id))
        return None if kept is None else HeldTune(decode_tune(kept.body), kept.version)

    async def page(
        self,
        workspace: str,
        *,
        after: str | None,
        limit: int,
        metadata: Mapping[str, str],
    ) -> Sequence[TuneRecord]:
        """The newest first, of those that have this metadata."""
        matching: list[TuneRecord] = []
        size = MAX_LISTED if metadata else limit
        while len(matching) < limit:
            found = await self.jobs.page(workspace, KIND, after=after, limit=size)
            records = [decode_tune(each.body) for each in found]
            matching += [each for each in records if _has(each, metadata)]
            if len(found) < size:
                break
            after = found[-1].record_id
        return matching[:limit]

    async def save(self, held: HeldTune) -> bool:
        """Write what is known; False if somebody else wrote meanwhile."""
        name, body = _name_of(held.record), encode_tune(held.record)
        is_done = await self.jobs.replace(name, body, held.version)
        held.version += is_done
        return is_done

    async def tell(
        self, workspace: str, job_id: str, event_id: str, raw: bytes
    ) -> bool:
        """Keep what a webhook said of it; False if that was known."""
        name = _told_name(job_id)
        is_new = await self.jobs.collect(workspace, name, {event_id: raw}, TOLD_MS)
        await self.wake(workspace, job_id)
        return bool(is_new)

    async def told(self, workspace: str, job_id: str) -> Sequence[bytes]:
        """All that webhooks said of it, in no order."""
        told = await self.jobs.collected(workspace, _told_name(job_id))
        return list(told.values())

    async def forget_told(self, workspace: str, job_id: str) -> None:
        await self.jobs.discard(workspace, _told_name(job_id))


def _has(record: TuneRecord, metadata: Mapping[str, str]) -> bool:
    return metadata.items() <= (record.metadata or {}).items()


def _told_name(job_id: str) -> str:
    return f"{job_id}:told"


def _name_of(record: TuneRecord) -> RecordName:
    return RecordName(record.caller.workspace, KIND, record.id)
