"""What LLMTune posts: results to the chunk they belong to, everything else kept."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.batches.chunks import COLLECTED_MS, SENT, collection_of
from gateway.batches.keeping import BatchBook
from gateway.batches.results import UpstreamResult, encode
from gateway.batches.tickets import Ticket
from gateway.fine_tuning.keeping import TuneBook
from gateway.fine_tuning.seeing import EVENTS as TUNE_EVENTS
from gateway.fine_tuning.seeing import TuneEvent, encode_event
from gateway.fine_tuning.urls import TuneTicket
from gateway.webhooks.incoming import Event
from policies.jobs.port import JobStore

# results    of a chunk, new or known
# kept       for whoever asks for it
# repeated   known before
Taken: TypeAlias = Literal["results", "kept", "repeated"]

# No workspace's name: theirs have no colon.
EVENTS: Final = ":llmtune"
# LLMTune's retries end long before.
KEPT_MS: Final = 5 * 86_400_000


class Inbox:
    """Takes events within milliseconds; what they cause happens afterwards."""

    def __init__(self, jobs: JobStore, book: BatchBook, tunes: TuneBook) -> None:
        self._jobs = jobs
        self._book = book
        self._tunes = tunes

    async def take(self, event: Event, ticket: Ticket | TuneTicket | None) -> Taken:
        """Keep what an event says, once; JobsUnavailable."""
        if isinstance(ticket, TuneTicket) and event.type in TUNE_EVENTS:
            raw = encode_event(TuneEvent(event.type, event.data))
            workspace, job_id = ticket.workspace, ticket.job_id
            is_first = await self._tunes.tell(workspace, job_id, event.id, raw)
            return "kept" if is_first else "repeated"
        if isinstance(ticket, Ticket):
            await self._take_results(event.data, ticket)
            return "results"
        kept = {"event": event.raw}
        new = await self._jobs.collect(EVENTS, event.id, kept, KEPT_MS)
        return "kept" if new else "repeated"

    async def _take_results(self, data: dict[str, Any], ticket: Ticket) -> None:
        found = {
            str(place): SENT + encode(result)
            for result in results_in(data)
            if (place := _place_of(result)) is not None and place < ticket.lines
        }
        if found:
            name = collection_of(ticket.batch_id, ticket.number)
            await self._jobs.collect(ticket.workspace, name, found, COLLECTED_MS)
            await self._book.wake(ticket.workspace, ticket.batch_id)


def results_in(data: dict[str, Any]) -> list[UpstreamResult]:
    """The results of an event: a list, or the one that it is about."""
    listed = data.get("results")
    found = []
    for each in listed if isinstance(listed, list) else [data]:
        try:
            found.append(msgspec.convert(each, UpstreamResult))
        except msgspec.ValidationError:
            # LLMTune's mistake; its line is missed, and asked for again.
            continue
    return found


def _place_of(result: UpstreamResult) -> int | None:
    text = str(result.id)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
