"""What LLMTune posts: results to the chunk they belong to, everything else relayed."""

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
from gateway.webhooks.registrations import ANY
from gateway.webhooks.relay import Publish
from policies.jobs.port import JobStore

# results    of a chunk, new or known
# kept       and relayed to whoever is registered
# repeated   known before
Taken: TypeAlias = Literal["results", "kept", "repeated"]

# No workspace's name: theirs have no colon.
EVENTS: Final = ":llmtune"
WHAT_CAME: Final = "event"
# LLMTune's retries end long before.
KEPT_MS: Final = 5 * 86_400_000
# For a person who looks; whoever is registered gets all of it.
MOST_KEPT_BYTES: Final = 65_536
# Whatever URL they come to: these are about jobs and models, and never about lines.
NEVER_RESULTS: Final = ("training.", "model.", "deployment.", "usage.")


class Inbox:
    """Takes events within milliseconds; what they cause happens afterwards."""

    def __init__(
        self, jobs: JobStore, book: BatchBook, tunes: TuneBook, publish: Publish
    ) -> None:
        self._jobs = jobs
        self._book = book
        self._tunes = tunes
        self._publish = publish

    async def take(self, event: Event, ticket: Ticket | TuneTicket | None) -> Taken:
        """Keep what an event says, once; JobsUnavailable."""
        if isinstance(ticket, Ticket) and not event.type.startswith(NEVER_RESULTS):
            await self._take_results(event.data, ticket)
            return "results"
        is_new = await self._keep(event, ticket)
        # Also what was known: whoever took it may have died before it was relayed.
        await self._publish(
            ANY if ticket is None else ticket.workspace,
            event.id,
            event.type,
            event.data,
            event.occurred_at_s,
        )
        return "kept" if is_new else "repeated"

    async def _keep(self, event: Event, ticket: Ticket | TuneTicket | None) -> bool:
        """Keep it for who asks, and its job if it has one; whether it was new."""
        if isinstance(ticket, TuneTicket) and event.type in TUNE_EVENTS:
            raw = encode_event(TuneEvent(event.type, event.data))
            workspace, job_id = ticket.workspace, ticket.job_id
            return await self._tunes.tell(workspace, job_id, event.id, raw)
        kept = {WHAT_CAME: event.raw[:MOST_KEPT_BYTES]}
        return bool(await self._jobs.collect(EVENTS, event.id, kept, KEPT_MS))

    async def _take_results(self, data: dict[str, Any], ticket: Ticket) -> None:
        found = {
            str(place): SENT + encode(result)
            for result in results_in(data)
            if (place := _place_of(result)) is not None and place < ticket.lines
        }
        # A chunk is open before LLMTune hears of it, so one that is not has been
        # written: what comes again would lie in the store, and nobody would look.
        if found and await self._is_open(ticket):
            name = collection_of(ticket.batch_id, ticket.number)
            await self._jobs.collect(ticket.workspace, name, found, COLLECTED_MS)
            await self._book.wake(ticket.workspace, ticket.batch_id)

    async def _is_open(self, ticket: Ticket) -> bool:
        held = await self._book.find(ticket.workspace, ticket.batch_id)
        return held is not None and any(
            chunk.number == ticket.number for chunk in held.record.open
        )


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
