"""
Driving one fine-tune from what its record says to what it should say next.

LLMTune is asked how the job stands; webhooks only make that sooner, and tell what it
may not. A step may be cut off anywhere and begun again by another replica: the job's id
is its Idempotency-Key, and what is sent with it is the same each time.
"""

from __future__ import annotations

import logging
from typing import Final

import msgspec

from gateway.auth import Principal
from gateway.background.caller import principal_of
from gateway.errors import GatewayError
from gateway.fine_tuning.answers import JobAnswer, read_job_body
from gateway.fine_tuning.asking import ask
from gateway.fine_tuning.ending import after_end
from gateway.fine_tuning.examples import MAX_LINE_BYTES, find_problem
from gateway.fine_tuning.keeping import HeldTune, LostTune
from gateway.fine_tuning.parts import TuneParts
from gateway.fine_tuning.record import LOST_AFTER_S, JobError
from gateway.fine_tuning.seeing import TOTAL_TOKENS, see
from gateway.fine_tuning.urls import HANDED_OVER_S, Handover, TuneTicket
from gateway.ids import new_id
from gateway.storage.port import ObjectMissing
from gateway.translation.own_jobs import FINE_TUNE_PATH
from gateway.translation.port import UpstreamRequest
from gateway.upstream.client import UpstreamCall

logger = logging.getLogger(__name__)

LOOK_AGAIN_MS: Final = 5_000
# A model that was trained and whose name nobody tells is waited for so long.
NAME_WITHIN_S: Final = 600
# Refusals that pass.
_PASSING: Final = frozenset({408, 409, 425, 429})


class _Hyperparameters(msgspec.Struct, omit_defaults=True, rename="camel"):
    epochs: int | None = None
    batch_size: int | None = None


class _Job(msgspec.Struct, omit_defaults=True, rename="camel"):
    """As LLMTune takes it."""

    base_model: str
    dataset: str
    webhook_url: str
    training_method: str
    hyperparameters: _Hyperparameters | None = None


_encode: Final = msgspec.json.Encoder().encode


class TuneRun:
    """One look at one fine-tune, by the replica that holds it."""

    def __init__(self, parts: TuneParts, held: HeldTune, principal: Principal) -> None:
        self._parts = parts
        self._held = held
        self._record = held.record
        self._workspace = held.record.caller.workspace
        self._credentials = parts.authenticator.credentials(principal)

    async def step(self) -> int | None:
        """Go on as far as is possible now; in how many ms to look again, or None."""
        record = self._record
        if record.status == "validating_files":
            await self._validate()
        if record.status == "queued" and record.upstream_id is None:
            await self._send()
        elif not record.has_ended:
            await self._look()
        if record.has_ended:
            return await after_end(self._parts, self._held)
        return int(self._parts.poll_s * 1000)

    async def _validate(self) -> None:
        record, files = self._record, self._parts.files
        try:
            lines = files.lines(
                self._workspace, record.training_file, max_line_bytes=MAX_LINE_BYTES
            )
            problem = await find_problem(lines)
        except ObjectMissing:
            problem = _gone()
        if problem is not None:
            await self._fail(problem)
            return
        record.status = "queued"
        self._log("Files validated, moving job to queued state")
        await self._save()

    async def _send(self) -> None:
        record = self._record
        if record.sent_at is None:
            # Saved first: who cancels from now on is told that LLMTune may have it.
            record.sent_at = int(self._parts.now_s())
            await self._save()
        if self._parts.now_s() >= record.sent_at + HANDED_OVER_S:
            # The file's URL has ended, and so may have LLMTune's memory of the key: one
            # more try could be a second job.
            text = "LLMTune has not said for a day whether it takes the job."
            await self._fail(JobError("upstream_unavailable", text))
            return
        file = await self._parts.files.read(self._workspace, record.training_file)
        if file is None:
            await self._fail(_gone())
            return
        try:
            answer = await self._post(self._body(file.filename, record.sent_at))
        except GatewayError as error:
            if not _is_final(error):
                raise
            await self._fail(JobError(error.error_code, error.message, error.param))
            return
        await self._note(answer)
        if not answer.job_id:
            text = "LLMTune took the job and did not say under which id."
            await self._fail(JobError("upstream_error", text))
            return
        record.upstream_id = answer.job_id
        self._log(f"LLMTune has queued the job as {answer.job_id}")
        try:
            await self._save()
        except LostTune:
            await self._add_id(answer.job_id)
            raise

    async def _add_id(self, job_id: str) -> None:
        """Of what was cancelled while LLMTune took it: it may make a model of it."""
        book = self._parts.book
        found = await book.find(self._workspace, self._record.id)
        if found is not None and found.record.upstream_id is None:
            found.record.upstream_id = job_id
            await book.save(found)

    def _body(self, filename: str, sent_at: int) -> bytes:
        record, urls = self._record, self._parts.urls
        until_s = sent_at + HANDED_OVER_S
        handover = Handover(self._workspace, record.training_file, until_s)
        chosen = _Hyperparameters(record.epochs, record.batch_size)
        return _encode(
            _Job(
                base_model=record.model,
                dataset=urls.file(handover, filename),
                webhook_url=urls.webhook(TuneTicket(self._workspace, record.id)),
                training_method="sft",
                hyperparameters=None if chosen == _Hyperparameters() else chosen,
            )
        )

    async def _post(self, body: bytes) -> JobAnswer:
        call = UpstreamCall(
            UpstreamRequest("fine_tune", FINE_TUNE_PATH, body, is_stream=False),
            self._credentials,
            self._record.model,
            "req_" + new_id(),
            idempotency_key=self._record.id.encode(),
        )
        async with await self._parts.upstream.open(call) as answer:
            return read_job_body(await answer.read())

    async def _look(self) -> None:
        record, parts = self._record, self._parts
        told = await parts.book.told(self._workspace, record.id)
        answer = await ask(parts, record, self._credentials)
        await self._apply(see(answer, told, record.model))

    async def _apply(self, seen: JobAnswer) -> None:
        record, now_s = self._record, self._parts.now_s()
        before = msgspec.json.encode(record)
        record.model_name = seen.model_name or record.model_name
        await self._note(seen)
        if seen.status in {"running", "completed"} and record.status == "queued":
            record.status = "running"
            self._log("Fine-tuning job started")
        if seen.metrics and seen.metrics != record.metrics:
            record.metrics = seen.metrics
            record.log(_told(seen.metrics), now_s, metrics=seen.metrics)
        if seen.status == "failed":
            await self._fail(_error_of(seen))
        elif seen.status == "completed":
            await self._complete(now_s)
        elif record.sent_at is not None and now_s > record.sent_at + LOST_AFTER_S:
            text = "LLMTune has not told what became of the job."
            await self._fail(JobError("job_lost", text))
        elif msgspec.json.encode(record) != before:
            await self._save()

    async def _complete(self, now_s: float) -> None:
        record = self._record
        record.completed_at = record.completed_at or int(now_s)
        if record.model_name is not None:
            await self._parts.owners.publish(
                self._workspace, record.model_name, int(now_s)
            )
            self._log(f"New fine-tuned model created: {record.model_name}")
        elif now_s < record.completed_at + NAME_WITHIN_S:
            await self._save()
            return
        else:
            text = "LLMTune has not told the name of the new model"
            record.log(text, now_s, level="warn")
        tokens = record.metrics.get(TOTAL_TOKENS)
        record.trained_tokens = None if tokens is None else int(tokens)
        self._log("The job has successfully completed")
        record.end("succeeded", now_s)
        await self._save()

    async def _note(self, answer: JobAnswer) -> None:
        """Nobody else is to see what comes of it."""
        job_id = answer.job_id or self._record.upstream_id or ""
        named = msgspec.structs.replace(answer, job_id=job_id, status=None)
        now_s = int(self._parts.now_s())
        await self._parts.owners.note(self._workspace, self._record.model, named, now_s)

    async def _fail(self, error: JobError) -> None:
        self._record.fail(error, self._parts.now_s())
        await self._save()

    def _log(self, message: str) -> None:
        self._record.log(message, self._parts.now_s())

    async def _save(self) -> None:
        if not await self._parts.book.save(self._held):
            raise LostTune


async def drive(parts: TuneParts, item: str) -> int | None:
    """One look at the job of an item of work; None if there is nothing more to do."""
    workspace, _, job_id = item.partition(" ")
    held = await parts.book.find(workspace, job_id)
    if held is None:
        return None
    try:
        if held.record.has_ended:
            return await after_end(parts, held)
        principal = principal_of(parts.authenticator, held.record.caller)
        if principal is None or not parts.urls.is_open:
            return await _wait_or_give_up(parts, held)
        return await TuneRun(parts, held, principal).step()
    except LostTune:
        # Cancelled meanwhile, most likely: the next look tells.
        return 0
    except GatewayError as error:
        facts = {"job": job_id, "code": error.error_code}
        logger.warning("a fine-tune has to wait", extra={"facts": facts})
        return LOOK_AGAIN_MS


async def _wait_or_give_up(parts: TuneParts, held: HeldTune) -> int | None:
    """Without its plan or its URLs it cannot go on; either may come back."""
    record, now_s = held.record, parts.now_s()
    facts = {"job": record.id, "plan": record.caller.plan}
    logger.warning("a fine-tune lacks its plan or its URL", extra={"facts": facts})
    if now_s < record.created_at + LOST_AFTER_S:
        return int(parts.poll_s * 1000)
    text = "The plan of its key is gone, or the gateway's own URL."
    record.fail(JobError("job_lost", text), now_s)
    if not await parts.book.save(held):
        raise LostTune
    return await after_end(parts, held)


def _is_final(error: GatewayError) -> bool:
    status = error.http_status
    return 400 <= status < 500 and status not in _PASSING


def _gone() -> JobError:
    return JobError("invalid_file", "The training file is gone.", "training_file")


def _error_of(seen: JobAnswer) -> JobError:
    message = seen.error_message or "LLMTune says that the training failed."
    return JobError((seen.error_code or "training_failed").lower(), message)


def _told(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in metrics.items())
