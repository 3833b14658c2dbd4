"""What callers ask of fine-tunes: made, looked at, listed, cancelled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from gateway.admission import Admission
from gateway.auth import Principal
from gateway.background.caller import caller_of
from gateway.background.places import require_place
from gateway.background.starting import id_under_key
from gateway.errors import InvalidRequest, ModelNotFound, ObjectNotFound
from gateway.fine_tuning.keeping import HeldTune
from gateway.fine_tuning.parts import TuneParts
from gateway.fine_tuning.record import KIND, Event, TuneRecord
from gateway.fine_tuning.request import TuneRequest
from gateway.limit_headers import rejection_error
from policies.jobs.port import new_record_id
from policies.ledger import Rejected, Usage

# Of cancelling against a driver that saves at the same instants.
MOST_TRIES: Final = 10


class TuneService:
    """The fine-tunes of the caller's workspace; JobsUnavailable."""

    def __init__(
        self, parts: TuneParts, admission: Admission, *, nudge: Callable[[], None]
    ) -> None:
        self._book = parts.book
        self._files = parts.files
        self._owners = parts.owners
        self._urls = parts.urls
        self._authenticator = parts.authenticator
        self._now_s = parts.now_s
        self._admission = admission
        self._nudge = nudge

    async def create(
        self, principal: Principal, request: TuneRequest, key: str | None = None
    ) -> dict[str, Any]:
        """
        A new job, which is checked and sent from now on; one for a key.

        IdempotencyKeyReused where something else was asked under it.
        """
        self._check_settings(principal)
        principal.require(request.model)
        if self._owners.is_anothers(principal.workspace, request.model):
            raise ModelNotFound(request.model)
        await self._check_file(principal.workspace, request.training_file)
        now_s = self._now_s()
        new_id = new_record_id("ftjob-", int(now_s * 1000))
        job_id = await id_under_key(
            self._book.jobs, principal, KIND, key, request, new_id
        )
        if await self._book.find(principal.workspace, job_id) is not None:
            return await self.show(principal.workspace, job_id)
        await require_place(self._book.jobs, principal, KIND, "fine-tuning-jobs")
        await self._spend(principal)
        record = TuneRecord(
            id=job_id,
            caller=caller_of(principal),
            model=request.model,
            training_file=request.training_file,
            created_at=int(now_s),
            suffix=request.suffix,
            epochs=request.epochs,
            batch_size=request.batch_size,
            metadata=request.metadata,
        )
        record.log(f"Created fine-tuning job: {record.id}", now_s)
        record.log(f"Validating training file: {record.training_file}", now_s)
        if record.suffix is not None:
            text = "LLMTune names models by itself: the suffix is only kept here"
            record.log(text, now_s, level="warn")
        await self._book.add(record)
        self._nudge()
        return record.shown()

    def _check_settings(self, principal: Principal) -> None:
        if self._authenticator.credentials(principal).is_callers_key:
            # Nobody keeps the keys that callers bring, and a job outlives its call.
            raise InvalidRequest(
                "Fine-tuning needs a gateway with its own LLMTune key"
                " (GATEWAY_UPSTREAM_API_KEY): yours is not kept."
            )
        if not self._urls.is_open:
            raise InvalidRequest(
                "Fine-tuning needs a gateway that LLMTune can fetch the training file"
                " from: GATEWAY_PUBLIC_URL and GATEWAY_WEBHOOK_SECRET are not set."
            )

    async def _check_file(self, workspace: str, file_id: str) -> None:
        param = "training_file"
        file = await self._files.read(workspace, file_id)
        if file is None:
            raise InvalidRequest(f"No such File object: {file_id[:128]}", param=param)
        if file.purpose != "fine-tune":
            text = f"The file's purpose is {file.purpose!r}; it has to be 'fine-tune'."
            raise InvalidRequest(text, param=param)

    async def _spend(self, principal: Principal) -> None:
        decision = await self._admission.spend(principal, Usage(1, 0))
        if isinstance(decision, Rejected):
            now_ms = int(self._now_s() * 1000)
            raise rejection_error(decision, principal.plan, now_ms=now_ms)

    async def show(self, workspace: str, job_id: str) -> dict[str, Any]:
        """How it stands."""
        return (await self._find(workspace, job_id)).record.shown()

    async def page(
        self,
        workspace: str,
        after: str | None,
        limit: int,
        metadata: Mapping[str, str],
    ) -> Sequence[dict[str, Any]]:
        """The newest first."""
        found = await self._book.page(
            workspace, after=after, limit=limit, metadata=metadata
        )
        return [each.shown() for each in found]

    async def events(
        self, workspace: str, job_id: str, after: str | None, limit: int
    ) -> Sequence[dict[str, Any]]:
        """Its log, the newest first."""
        events = (await self._find(workspace, job_id)).record.events[::-1]
        return [each.shown() for each in _after(events, after)[:limit]]

    async def cancel(self, workspace: str, job_id: str) -> dict[str, Any]:
        """Have nothing more done for it."""
        for _ in range(MOST_TRIES):
            held = await self._find(workspace, job_id)
            record, now_s = held.record, self._now_s()
            if record.has_ended:
                break
            text = "The job was cancelled before it was sent to LLMTune"
            if record.sent_at is not None:
                text = (
                    "The job was cancelled and is no longer followed; LLMTune cannot"
                    " cancel, so that it may finish and charge the training"
                )
            record.log(text, now_s, level="warn")
            record.end("cancelled", now_s)
            if await self._book.save(held):
                await self._book.wake(workspace, job_id)
                self._nudge()
                break
            # Its driver was first.
        return (await self._find(workspace, job_id)).record.shown()

    async def require(self, workspace: str, job_id: str) -> None:
        """ObjectNotFound if there is none."""
        await self._find(workspace, job_id)

    async def _find(self, workspace: str, job_id: str) -> HeldTune:
        held = await self._book.find(workspace, job_id)
        if held is None:
            raise ObjectNotFound("FineTuningJob", job_id)
        return held


def _after(events: list[Event], after: str | None) -> list[Event]:
    if after is None:
        return events
    places = [place for place, each in enumerate(events) if each.id == after]
    return events[places[0] + 1 :] if places else []
