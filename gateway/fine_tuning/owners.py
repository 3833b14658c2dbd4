"""
Whose LLMTune's jobs and the models they made are.

Under the gateway's key all workspaces are one to LLMTune, which shows everybody's job
and lists everybody's model to all of them: here each has its owner.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from typing import Final

import msgspec

from gateway.fine_tuning.answers import JobAnswer
from gateway.upstream.listing import Model
from policies.jobs.port import (
    MAX_LISTED,
    JobStore,
    JobsUnavailable,
    Kept,
    RecordName,
)

logger = logging.getLogger(__name__)

JOB_KIND: Final = "llmtune_job"
MODEL_KIND: Final = "tuned_model"
# No workspace's name: theirs have no colon. It has one record of each workspace's
# models.
EVERYBODY: Final = ":llmtune"

# A model is used long after its job, and what is kept needs an end.
TTL_MS: Final = 5 * 365 * 86_400_000

# 100,000 models are 10 MB; a gateway has some hundreds.
MAX_OWNED: Final = 100_000
# For so long another replica may not know that a new model has an owner. Its name is
# known to nobody but that owner.
REFRESH_S: Final = 10.0
# While a process knows of none because the store was away when it began.
FIRST_REFRESH_S: Final = 0.5

# As it goes into a key and a path.
_IS_JOB_ID: Final = re.compile(r"[A-Za-z0-9_.:~-]{1,128}").fullmatch


class _Owned(msgspec.Struct, frozen=True):
    model: str
    workspace: str
    created_s: int


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Owned).decode


class Owners:
    """Remembers owners, for all replicas; JobsUnavailable."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        # Of every model its owner, as far as this process knows.
        self._owner_of: dict[str, str] = {}

    async def note(
        self, workspace: str, base: str, answer: JobAnswer, now_s: int
    ) -> None:
        """What LLMTune says of a workspace's job on this model, new or known."""
        if _IS_JOB_ID(answer.job_id):
            name = RecordName(workspace, JOB_KIND, answer.job_id)
            await self._jobs.create(name, base.encode(), TTL_MS)
        else:
            logger.warning("a job has an id of no known form, and is not remembered")
        # One generation calls the base model so; that is everybody's.
        if answer.model_name and answer.model_name != base:
            # From its first mention, so that nobody else ever sees it.
            await self.claim(workspace, answer.model_name, now_s)
            if answer.status == "completed":
                await self.publish(workspace, answer.model_name, now_s)

    async def base_of(self, workspace: str, job_id: str) -> str | None:
        """On what LLMTune's job of this workspace is; None if there is none."""
        if not _IS_JOB_ID(job_id):
            return None
        kept = await self._jobs.read(RecordName(workspace, JOB_KIND, job_id))
        return None if kept is None else kept.body.decode()

    async def claim(self, workspace: str, model: str, now_s: int) -> None:
        """Have nobody else see a model."""
        await self._note_model(EVERYBODY, workspace, model, now_s)

    async def publish(self, workspace: str, model: str, now_s: int) -> None:
        """Have a model that can be asked in its owner's list."""
        await self.claim(workspace, model, now_s)
        await self._note_model(workspace, workspace, model, now_s)

    async def _note_model(
        self, where: str, workspace: str, model: str, now_s: int
    ) -> None:
        self._owner_of.setdefault(model, workspace)
        # A model's name may hold what a key may not.
        record_id = hashlib.sha256(model.encode()).hexdigest()[:32]
        body = _encode(_Owned(model, workspace, now_s))
        await self._jobs.create(RecordName(where, MODEL_KIND, record_id), body, TTL_MS)

    async def models_of(self, workspace: str) -> list[Model]:
        """The models that a workspace's jobs have made."""
        return [
            Model(each.model, each.created_s, workspace)
            for each in await self._owned(workspace)
        ]

    def is_anothers(self, workspace: str, model: str) -> bool:
        """Whether a model is another workspace's; asks nobody."""
        return self._owner_of.get(model, workspace) != workspace

    async def refresh(self) -> None:
        """Learn what jobs on other replicas have made."""
        owned = await self._owned(EVERYBODY)
        # Beside what was noted here meanwhile.
        self._owner_of |= {each.model: each.workspace for each in owned}

    async def keep_fresh(self) -> None:
        """Learn it again and again, until cancelled."""
        while True:
            wait_s = REFRESH_S
            try:
                await self.refresh()
            except JobsUnavailable:
                # What was known holds on; nothing at all hides nothing.
                wait_s = REFRESH_S if self._owner_of else FIRST_REFRESH_S
            await asyncio.sleep(wait_s)

    async def _owned(self, where: str) -> list[_Owned]:
        found: list[Kept] = []
        while len(found) < MAX_OWNED:
            after = found[-1].record_id if found else None
            page = await self._jobs.page(
                where, MODEL_KIND, after=after, limit=MAX_LISTED
            )
            found += page
            if len(page) < MAX_LISTED:
                break
        return [_decode(each.body) for each in found]
