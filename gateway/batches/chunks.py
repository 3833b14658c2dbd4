"""One open chunk: sent as one or run line by line, and written when it is complete."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.batches.lines import Item, prompt_of
from gateway.batches.pace import Pace
from gateway.batches.planning import Chunk, once, read_chunk
from gateway.batches.record import BatchRecord, OpenChunk
from gateway.batches.results import (
    Outcome,
    OutputLine,
    decode_outcome,
    decode_result,
    encode,
    to_outcome,
    unanswered,
)
from gateway.batches.tickets import Ticket, TicketOffice
from gateway.ids import new_id
from gateway.storage.port import ObjectMissing, Storage
from gateway.translation.own_jobs import BATCH_PATH
from gateway.translation.port import Parse, Stamp, UpstreamRequest
from gateway.upstream.client import Credentials, UpstreamCall, UpstreamClient
from policies.jobs.port import JobStore

# Results that were collected and are waited for no more end with the batch's day.
COLLECTED_MS: Final = 2 * 86_400_000

# An outcome as we made it, or a result as LLMTune sent it.
MADE: Final = b"o"
SENT: Final = b"u"


# Again, because results had not come in time.
Sending: TypeAlias = Literal["first", "again"]


class _Request(msgspec.Struct, frozen=True):
    id: str
    prompt: str


class _Batch(msgspec.Struct, frozen=True, rename="camel"):
    model_id: str
    requests: list[_Request]
    webhook_url: str


class Tally(msgspec.Struct):
    """What the lines of a chunk came to."""

    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    # Of the lines that LLMTune took together, which nothing was charged for yet.
    uncharged_lines: int = 0
    uncharged_tokens: int = 0


def collection_of(batch_id: str, number: int) -> str:
    """Under which name the results of a chunk are collected."""
    return f"{batch_id}:{number}"


def paid_of(batch_id: str, number: int) -> str:
    """Which of its lines were charged for before their result is."""
    return f"{batch_id}:{number}:paid"


class ChunkDesk:
    """What is done with the chunks of a batch; each call may be repeated."""

    def __init__(
        self,
        *,
        jobs: JobStore,
        storage: Storage,
        upstream: UpstreamClient,
        tickets: TicketOffice,
        pace: Pace,
        count_sent: Callable[[Sending], None] = lambda _: None,
    ) -> None:
        self._count_sent = count_sent
        self._pace = pace
        self._jobs = jobs
        self._storage = storage
        self._upstream = upstream
        self._tickets = tickets

    async def read(self, folder: str, number: int) -> Chunk:
        """A chunk's lines."""
        return await read_chunk(self._storage, folder, number)

    async def results(self, record: BatchRecord, number: int) -> dict[int, bytes]:
        """What has come, by the place of the line in its chunk."""
        name = collection_of(record.id, number)
        found = await self._jobs.collected(record.caller.workspace, name)
        return {int(place): result for place, result in found.items()}

    async def paid(self, record: BatchRecord, number: int) -> set[int]:
        """The places of lines that were charged for already."""
        name = paid_of(record.id, number)
        return set(map(int, await self._jobs.collected(record.caller.workspace, name)))

    async def send(
        self,
        record: BatchRecord,
        chunk: OpenChunk,
        lines: Chunk,
        places: Iterable[int],
        parse: Parse,
        credentials: Credentials,
    ) -> None:
        """Have LLMTune run these lines; GatewayError. Sent twice they run once."""
        wanted = list(places)
        body = await self._body(record, chunk, lines, wanted, parse)
        call = UpstreamCall(
            UpstreamRequest("batch", BATCH_PATH, body, is_stream=False),
            credentials,
            lines.model,
            "req_" + new_id(),
            idempotency_key=f"{record.id}-{chunk.number}-{chunk.attempt}".encode(),
        )
        async with await self._upstream.open(call) as answer:
            await answer.read()
        self._count_sent("again" if chunk.attempt else "first")

    async def _body(
        self,
        record: BatchRecord,
        chunk: OpenChunk,
        lines: Chunk,
        places: list[int],
        parse: Parse,
    ) -> bytes:
        requests = []
        async with self._pace as pace:
            for place in places:
                prompt = prompt_of(parse(bytes(lines.items[place].body)))
                requests.append(_Request(str(place), prompt))
                await pace.turn()
        ticket = Ticket(record.caller.workspace, record.id, chunk.number, chunk.lines)
        return encode(_Batch(lines.model, requests, self._tickets.url_of(ticket)))

    async def write(
        self,
        folder: str,
        number: int,
        lines: Chunk,
        results: dict[int, bytes],
        parse: Parse,
        *,
        missing: tuple[str, str] = ("batch_failed", "The request was not run."),
        paid: Collection[int] = (),
    ) -> Tally:
        """Keep what became of a chunk; what it lacks is told as `missing`."""
        tally = Tally()
        answers, errors = list[bytes](), list[bytes]()
        async with self._pace as pace:
            for place, item in enumerate(lines.items):
                raw = results.get(place)
                outcome = (
                    unanswered(item, *missing)
                    if raw is None
                    else _read(item, raw, parse)
                )
                is_charged = raw is None or raw[:1] == MADE or place in paid
                _count(tally, outcome, is_charged=is_charged)
                (answers if outcome.is_answer else errors).append(_line(outcome.line))
                await pace.turn()
        for kind, parts in (("out", answers), ("err", errors)):
            written = b"".join(parts)
            if written:
                key = part_key(folder, kind, number)
                await self._storage.put(key, once(written))
        return tally

    async def give_up(
        self,
        record: BatchRecord,
        chunk: OpenChunk,
        lines: Chunk,
        missing: tuple[str, str],
    ) -> None:
        """Have what a chunk lacks be told as `missing`, whatever comes later."""
        known = await self.results(record, chunk.number)
        lacking = {
            str(place): MADE + encode(unanswered(item, *missing))
            for place, item in enumerate(lines.items)
            if place not in known
        }
        if lacking:
            workspace, name = (
                record.caller.workspace,
                collection_of(record.id, chunk.number),
            )
            await self._jobs.collect(workspace, name, lacking, COLLECTED_MS)

    async def forget(self, record: BatchRecord, folder: str, number: int) -> None:
        """Drop what is needed no more once the chunk is written and counted."""
        for name in (collection_of(record.id, number), paid_of(record.id, number)):
            await self._jobs.discard(record.caller.workspace, name)
        await self._storage.delete(f"{folder}/chunk-{number:05}")

    async def parts(self, folder: str, kind: str, chunks: int) -> AsyncIterator[bytes]:
        """All that was written of a kind, in the order of the chunks."""
        for number in range(chunks):
            try:
                async for piece in self._storage.open(part_key(folder, kind, number)):
                    yield piece
            except ObjectMissing:
                continue

    async def sweep(self, folder: str) -> None:
        """Delete all that a batch has left but its files."""
        async for key in self._storage.list(f"{folder}/"):
            await self._storage.delete(key)


def part_key(folder: str, kind: str, number: int) -> str:
    return f"{folder}/{kind}-{number:05}"


def _read(item: Item, raw: bytes, parse: Parse) -> Outcome:
    if raw[:1] == MADE:
        return decode_outcome(raw[1:])
    stamp = Stamp("chatcmpl-" + new_id(), int(time.time()))
    return to_outcome(item, decode_result(raw[1:]), parse, stamp)


def _count(tally: Tally, outcome: Outcome, *, is_charged: bool) -> None:
    tally.completed += outcome.is_answer
    tally.failed += not outcome.is_answer
    tally.input_tokens += outcome.input_tokens
    tally.output_tokens += outcome.output_tokens
    if outcome.is_answer and not is_charged:
        tally.uncharged_lines += 1
        tally.uncharged_tokens += outcome.input_tokens + outcome.output_tokens


def _line(line: OutputLine) -> bytes:
    return encode(line) + b"\n"
