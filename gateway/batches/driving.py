"""
Driving one batch from what its record says to what it should say next.

A step may be cut off anywhere and begun again by another replica: objects are written
whole or not at all, results are collected once, charges have names, and the record
changes only as it was read. The order in each is: bytes, charge, record, clean up.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final

from gateway.auth import Principal
from gateway.background.caller import principal_of
from gateway.batches.ending import after_end, folder_of_batch
from gateway.batches.keeping import Held, LostBatch
from gateway.batches.lines import BadLine, CheckedLine, check_line, parse_of
from gateway.batches.parts import BatchParts
from gateway.batches.planning import MAX_LINE_BYTES, Chunk, Cutter
from gateway.batches.record import LineError, OpenChunk, Status
from gateway.batches.room import LOOK_AGAIN_MS, Room
from gateway.batches.single_lines import SingleLines
from gateway.errors import (
    GatewayError,
    ModelNotFound,
    UpstreamError,
)
from gateway.files.service import new_file_id
from gateway.storage.port import ObjectMissing, StorageUnavailable
from policies.jobs.port import JobsUnavailable
from policies.ledger import Usage

logger = logging.getLogger(__name__)

# Chunks under way at a time: LLMTune works on them while we write the others.
MAX_OPEN: Final = 8
# After so many sendings a chunk's lines are run one by one.
MAX_SENDINGS: Final = 3
# What an answer is taken for whose caller leaves its length open.
USUAL_OUTPUT_TOKENS: Final = 512


class BatchRun:
    """One look at one batch, by the replica that holds it."""

    def __init__(self, parts: BatchParts, held: Held, principal: Principal) -> None:
        self._parts = parts
        self._held = held
        self._principal = principal
        self._record = record = held.record
        self._folder = folder_of_batch(record)
        self._room = Room(parts, record, principal)
        settings = parts.settings
        self._parse = parse_of(
            record.endpoint, settings.upstream_dialect, settings.upstream_prompt_form
        )

    @property
    def _now_s(self) -> int:
        return int(self._parts.now_s())

    async def step(self) -> int | None:
        """Go on as far as is possible now; in how many ms to look again, or None."""
        record = self._record
        if record.status == "validating":
            await self._cut()
        if record.status == "in_progress":
            await self._advance()
        is_over = not record.open and record.next_chunk >= record.chunks
        if record.status in {"cancelling", "finalizing"} or (
            record.status == "in_progress" and (is_over or self._is_expired)
        ):
            await self._conclude()
        return None if record.has_ended else self._room.wait_ms()

    @property
    def _is_expired(self) -> bool:
        return self._now_s >= self._record.expires_at

    # Its input.

    async def _cut(self) -> None:
        record, limits = self._record, self._principal.plan.batch
        cutter = Cutter(
            self._parts.files.storage, self._folder, self._check, self._parts.pace
        )
        lines = self._parts.files.lines(
            record.caller.workspace,
            record.input_file_id,
            max_line_bytes=MAX_LINE_BYTES,
        )
        try:
            plan = await cutter.cut(lines, limits.max_lines)
        except ObjectMissing:
            gone = LineError("invalid_file", "The input file is gone.", "input_file_id")
            await self._fail((gone,))
            return
        if plan.errors:
            await self._fail(plan.errors)
            return
        record.chunks, record.model = plan.chunks, plan.model
        record.counts.total = plan.lines
        record.become("in_progress", self._now_s)
        await self._save()

    def _check(self, raw: bytes, number: int) -> CheckedLine:
        endpoint, plan = self._record.endpoint, self._principal.plan
        checked = check_line(
            raw, number, endpoint, self._parse, USUAL_OUTPUT_TOKENS, plan
        )
        workspace = self._principal.workspace
        if not self._principal.may_use(checked.model) or self._parts.is_anothers(
            workspace, checked.model
        ):
            text = ModelNotFound(checked.model).message
            raise BadLine(LineError("model_not_found", text, "body.model", number))
        return checked

    async def _fail(self, errors: tuple[LineError, ...]) -> None:
        self._record.errors = errors
        self._record.become("failed", self._now_s)
        await self._save()

    # Its chunks.

    async def _advance(self) -> None:
        await self._harvest()
        if self._is_expired:
            return
        for chunk in list(self._record.open):
            if chunk.way == "together" and chunk.missed_ms == 0:
                await self._send(chunk)
        await self._fill()
        if any(chunk.way == "singly" for chunk in self._record.open):
            wait_ms = await self._single_lines().run()
            if wait_ms is not None:
                self._room.waits_ms.append(wait_ms)
            await self._harvest()
            await self._fill()

    def _single_lines(self) -> SingleLines:
        return SingleLines(
            self._parts, self._held, self._principal, self._parse, self._folder
        )

    async def _harvest(self) -> None:
        for chunk in list(self._record.open):
            results = await self._parts.desk.results(self._record, chunk.number)
            if len(results) >= chunk.lines:
                lines = await self._parts.desk.read(self._folder, chunk.number)
                if chunk.owner:
                    await self._single_lines().look_after(chunk, lines, results)
                await self._close(chunk, lines, results)
            elif 0 < chunk.missed_ms <= self._parts.now_s() * 1000:
                await self._miss(chunk)

    async def _close(
        self,
        chunk: OpenChunk,
        lines: Chunk,
        results: dict[int, bytes],
    ) -> None:
        record, desk = self._record, self._parts.desk
        tally = await desk.write(
            self._folder,
            chunk.number,
            lines,
            results,
            self._parse,
            paid=await desk.paid(record, chunk.number),
        )
        usage = Usage(tally.uncharged_lines, tally.uncharged_tokens)
        charge = f"{record.id}.chunk.{chunk.number}"
        if usage.requests:
            await self._parts.admission.charge_named(self._principal, usage, charge)
        record.open.remove(chunk)
        record.counts.completed += tally.completed
        record.counts.failed += tally.failed
        record.tokens.input += tally.input_tokens
        record.tokens.output += tally.output_tokens
        await self._save()
        self._parts.count_lines(tally.completed, tally.failed)
        if usage.requests:
            # Not before: until then somebody may have to find it again.
            workspace = record.caller.workspace
            await self._parts.admission.end_charge(workspace, usage, charge)
        await self._room.shrink()
        await desk.forget(record, self._folder, chunk.number)

    async def _miss(self, chunk: OpenChunk) -> None:
        chunk.attempt += 1
        chunk.missed_ms = 0
        if chunk.attempt >= MAX_SENDINGS:
            chunk.way = "singly"
        facts = {"batch": self._record.id, "chunk": chunk.number}
        logger.warning("results of a batch did not come", extra={"facts": facts})
        await self._save()

    async def _fill(self) -> None:
        record = self._record
        while (
            record.status == "in_progress"
            and len(record.open) < MAX_OPEN
            and record.next_chunk < record.chunks
        ):
            number = record.next_chunk
            lines = await self._parts.desk.read(self._folder, number)
            way = await self._room.take(lines)
            if way is None:
                return
            record.open.append(
                OpenChunk(number, way, len(lines.items), lines.tokens, attempt=0)
            )
            record.next_chunk += 1
            await self._save()
            if way == "together":
                await self._send(record.open[-1])

    async def _send(self, chunk: OpenChunk) -> None:
        record, desk = self._record, self._parts.desk
        if record.status != "in_progress":
            # Cancelled meanwhile: what is sent now would be thrown away.
            return
        lines = await desk.read(self._folder, chunk.number)
        known = await desk.results(record, chunk.number)
        places = [place for place in range(chunk.lines) if place not in known]
        if not places:
            return
        credentials = self._parts.authenticator.credentials(self._principal)
        try:
            await desk.send(record, chunk, lines, places, self._parse, credentials)
        except UpstreamError as error:
            if error.http_status == 429 or error.http_status >= 500:
                return
            # One by one, each line is told for itself what is wrong.
            chunk.way = "singly"
        patience_ms = self._parts.settings.batch_result_timeout_s * 1000
        if chunk.way == "together":
            chunk.missed_ms = int(self._parts.now_s() * 1000 + patience_ms)
        await self._save()

    # Its end.

    async def _conclude(self) -> None:
        record = self._record
        missing = ("batch_expired", "This request could not be run in time.")
        if record.status == "cancelling":
            missing = ("batch_cancelled", "The batch was cancelled before it was run.")
        await self._abandon(missing)
        if record.status == "in_progress":
            record.become("finalizing", self._now_s)
        if record.counts.completed and record.output_file_id is None:
            record.output_file_id = new_file_id(self._parts.now_s)
        if record.counts.failed and record.error_file_id is None:
            record.error_file_id = new_file_id(self._parts.now_s)
        await self._save()
        await self._write(record.output_file_id, "out", "output")
        await self._write(record.error_file_id, "err", "error")
        # Again, for the one who died between counting and giving back.
        await self._room.shrink()
        record.become(self._last_status(), self._now_s)
        await self._save()

    def _last_status(self) -> Status:
        if self._record.moments.cancelling is not None:
            return "cancelled"
        return "expired" if self._record.was_expired else "completed"

    async def _abandon(self, missing: tuple[str, str]) -> None:
        """Write the lines that will not be run any more."""
        record, desk = self._record, self._parts.desk
        if record.open or record.next_chunk < record.chunks:
            record.was_expired = record.status != "cancelling"
            # Before anything is given up, which looks like an answer afterwards.
            await self._save()
        for chunk in list(record.open):
            lines = await desk.read(self._folder, chunk.number)
            if chunk.owner:
                known = await desk.results(record, chunk.number)
                await self._single_lines().look_after(chunk, lines, known)
                chunk.owner = ""
            # From here what it lacks is as fixed as what it has: whoever comes later
            # writes the same.
            await desk.give_up(record, chunk, lines, missing)
            results = await desk.results(record, chunk.number)
            await self._close(chunk, lines, results)
        while record.next_chunk < record.chunks:
            number = record.next_chunk
            lines = await desk.read(self._folder, number)
            tally = await desk.write(
                self._folder, number, lines, {}, self._parse, missing=missing
            )
            record.counts.failed += tally.failed
            record.next_chunk += 1
            await self._save()

    async def _write(self, file_id: str | None, kind: str, name: str) -> None:
        record = self._record
        if file_id is None:
            return
        parts: AsyncIterator[bytes] = self._parts.desk.parts(
            self._folder, kind, record.chunks
        )
        await self._parts.files.create(
            record.caller.workspace,
            parts,
            filename=f"{record.id}_{name}.jsonl",
            purpose="batch_output",
            expires_after_s=record.output_expires_after_s,
            file_id=file_id,
        )

    async def _save(self) -> None:
        await self._parts.book.save(self._held)


async def drive(parts: BatchParts, item: str) -> int | None:
    """One look at the batch of an item of work; None if there is nothing more to do."""
    workspace, _, batch_id = item.partition(" ")
    held = await parts.book.find(workspace, batch_id)
    if held is None:
        return None
    try:
        again_ms = None if held.record.has_ended else await _look(parts, held)
        if again_ms is None:
            await after_end(parts, held)
        return again_ms
    except LostBatch:
        return LOOK_AGAIN_MS
    except GatewayError as error:
        # The ledger or the upstream, away: nothing is lost by coming again.
        facts = {"batch": batch_id, "code": error.error_code}
        logger.warning("a batch has to wait", extra={"facts": facts})
        return LOOK_AGAIN_MS


async def _look(parts: BatchParts, held: Held) -> int | None:
    record = held.record
    principal = principal_of(parts.authenticator, record.caller)
    if principal is None:
        lacks = LineError("plan_not_found", "The plan of its key is gone.")
    else:
        try:
            return await BatchRun(parts, held, principal).step()
        except ObjectMissing:
            lacks = LineError("batch_lost", "What was kept of the batch is gone.")
        except (GatewayError, JobsUnavailable, LostBatch, StorageUnavailable):
            raise
        except Exception:
            logger.exception("driving a batch failed")
            lacks = LineError("internal_error", "The gateway cannot run this batch.")
    facts = {"batch": record.id, "code": lacks.code}
    logger.error("a batch cannot go on", extra={"facts": facts})
    # A plan may be on its way, and a volume may show a file late.
    if parts.now_s() < record.expires_at:
        return LOOK_AGAIN_MS
    return await _give_up(parts, held, lacks)


async def _give_up(parts: BatchParts, held: Held, error: LineError) -> int | None:
    """End a batch that cannot be ended in order; LostBatch if another has it."""
    record = held.record
    record.errors = (error,)
    record.open = []
    record.become("failed", int(parts.now_s()))
    await parts.book.save(held)
    return None
