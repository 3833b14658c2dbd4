"""What callers ask of batches: made, looked at, listed, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.auth import Authenticator, Principal
from gateway.background.caller import caller_of
from gateway.background.places import require_place
from gateway.background.starting import id_under_key
from gateway.batches.keeping import BatchBook, Held
from gateway.batches.record import KIND, BatchRecord, Endpoint
from gateway.errors import InvalidRequest, ObjectNotFound
from gateway.files.service import FileService
from gateway.schemas.openai import Metadata
from policies.jobs.port import new_record_id

WINDOW_S: Final = 86_400
MAX_INPUT_BYTES: Final = 200 * 1024 * 1024
# Of cancelling against a driver that saves at the same instants.
MOST_TRIES: Final = 10


class ExpiresAfter(msgspec.Struct, frozen=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=2_592_000)]


class BatchRequest(msgspec.Struct, frozen=True):
    """`POST /v1/batches`, as OpenAI has it."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchService:
    """The batches of the caller's workspace; JobsUnavailable."""

    def __init__(
        self,
        book: BatchBook,
        files: FileService,
        authenticator: Authenticator,
        *,
        nudge: Callable[[], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._files = files
        self._authenticator = authenticator
        self._nudge = nudge
        self._now_s = now_s

    async def create(
        self, principal: Principal, request: BatchRequest, key: str | None = None
    ) -> dict[str, Any]:
        """
        A new batch, which is checked and run from now on; one for a key.

        IdempotencyKeyReused where something else was asked under it.
        """
        if self._authenticator.credentials(principal).is_callers_key:
            # Nobody keeps the keys that callers bring, and a batch outlives its call.
            raise InvalidRequest(
                "Batches need a gateway with its own LLMTune key"
                " (GATEWAY_UPSTREAM_API_KEY): yours is not kept."
            )
        await self._check_input(principal, request)
        now_s = self._now_s()
        expires = request.output_expires_after
        new_id = new_record_id("batch_", int(now_s * 1000))
        record = BatchRecord(
            id=await id_under_key(
                self._book.jobs, principal, KIND, key, request, new_id
            ),
            caller=caller_of(principal),
            endpoint=request.endpoint,
            input_file_id=request.input_file_id,
            created_at=int(now_s),
            expires_at=int(now_s) + WINDOW_S,
            metadata=request.metadata,
            output_expires_after_s=None if expires is None else expires.seconds,
        )
        if await self._book.find(principal.workspace, record.id) is None:
            await require_place(self._book.jobs, principal, KIND, "batches")
        is_new = await self._book.add(record)
        self._nudge()
        if is_new:
            return record.shown()
        return await self.show(principal.workspace, record.id)

    async def _check_input(self, principal: Principal, request: BatchRequest) -> None:
        file_id, param = request.input_file_id, "input_file_id"
        file = await self._files.read(principal.workspace, file_id)
        if file is None:
            raise InvalidRequest(f"No such File object: {file_id[:128]}", param=param)
        if file.purpose != "batch":
            text = f"The file's purpose is {file.purpose!r}; it has to be 'batch'."
            raise InvalidRequest(text, param=param)
        if file.bytes > MAX_INPUT_BYTES:
            text = f"The file has more than {MAX_INPUT_BYTES} bytes."
            raise InvalidRequest(text, param=param)

    async def show(self, workspace: str, batch_id: str) -> dict[str, Any]:
        """How it stands."""
        return (await self._find(workspace, batch_id)).record.shown()

    async def page(
        self, workspace: str, after: str | None, limit: int
    ) -> Sequence[dict[str, Any]]:
        """The newest first."""
        found = await self._book.page(workspace, after=after, limit=limit)
        return [each.shown() for each in found]

    async def cancel(self, workspace: str, batch_id: str) -> dict[str, Any]:
        """Have it stopped; what was answered by then is kept."""
        held = await self._find(workspace, batch_id)
        for _ in range(MOST_TRIES):
            if held.record.has_ended or held.record.status == "cancelling":
                break
            if held.record.status == "finalizing":
                raise InvalidRequest("The batch is complete but for its files.")
            if await self._book.cancel(held, int(self._now_s())):
                await self._book.wake(workspace, batch_id)
                self._nudge()
                break
            # Its driver was first.
            held = await self._find(workspace, batch_id)
        return held.record.shown()

    async def _find(self, workspace: str, batch_id: str) -> Held:
        held = await self._book.find(workspace, batch_id)
        if held is None:
            raise ObjectNotFound("Batch", batch_id)
        return held
