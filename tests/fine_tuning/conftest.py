"""A gateway that LLMTune reads training files from, and a client that tunes models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import httpx
import pytest

from tests.batches.conftest import (
    ENDS_WITHIN_S,
    BatchHouse,
    Json,
    StartHouse,
    jsonl,
    start_house,
)
from tests.gateway_under_test import MODEL
from tests.proofs.check import until

__all__ = ["start_house"]

JOBS: Final = "/v1/fine_tuning/jobs"
LAST: Final = ("succeeded", "failed", "cancelled")
EXAMPLE: Final = {
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Good day."},
    ]
}
QUICK: Final = {"job_queued_ms": 20, "job_running_ms": 50}
SLOW: Final = {"job_queued_ms": 60_000}


class TuningHouse:
    """A gateway, the LLMTune behind it, and what callers do with fine-tunes."""

    def __init__(self, house: BatchHouse) -> None:
        self.gateway = house.gateway
        self.llmtune = house.llmtune

    async def upload(
        self,
        content: bytes | None = None,
        plan: str = "open",
        *,
        name: str = "train.jsonl",
        purpose: str = "fine-tune",
    ) -> str:
        """The id of a training file."""
        content = jsonl([EXAMPLE] * 3) if content is None else content
        uploaded = await self.gateway.client.post(
            "/v1/files",
            data={"purpose": purpose},
            files={"file": (name, content)},
            headers=self.gateway.auth(plan),
        )
        assert uploaded.status_code == 200, uploaded.text
        file_id: str = uploaded.json()["id"]
        return file_id

    async def create(self, plan: str = "open", **fields: Any) -> httpx.Response:
        """What creating a job is answered; with a good file unless one is named."""
        if "training_file" not in fields:
            fields["training_file"] = await self.upload(plan=plan)
        return await self.gateway.post(JOBS, plan, **{"model": MODEL, **fields})

    async def start(self, plan: str = "open", **fields: Any) -> Json:
        """A job, as it is shown at first."""
        created = await self.create(plan, **fields)
        assert created.status_code == 200, created.text
        shown: Json = created.json()
        return shown

    async def show(self, job_id: str, plan: str = "open") -> Json:
        shown: Json = (await self.gateway.get(f"{JOBS}/{job_id}", plan)).json()
        return shown

    async def becomes(self, job_id: str, *states: str, plan: str = "open") -> Json:
        """The job when it is in one of these states."""
        job = await self.show(job_id, plan)

        async def is_there() -> bool:
            job.update(await self.show(job_id, plan))
            return job["status"] in states

        await until(is_there, f"a job to be {states}", within_s=ENDS_WITHIN_S)
        return job

    async def ended(self, job_id: str, plan: str = "open") -> Json:
        """The job when it has ended."""
        return await self.becomes(job_id, *LAST, plan=plan)

    async def events(self, job_id: str, query: str = "?limit=100") -> list[Json]:
        """Its log, the oldest first."""
        listed = await self.gateway.get(f"{JOBS}/{job_id}/events{query}")
        assert listed.status_code == 200, listed.text
        return list(reversed(listed.json()["data"]))

    async def models(self, plan: str = "open") -> list[str]:
        listed = await self.gateway.get("/v1/models", plan)
        return [each["id"] for each in listed.json()["data"]]

    @property
    def sent(self) -> int:
        """How many jobs LLMTune was asked to create."""
        return self.llmtune.stats.requests.get("/v1/fine-tune", 0)


StartTuning: TypeAlias = Callable[..., Awaitable[TuningHouse]]


@pytest.fixture
def start_tuning(start_house: StartHouse) -> StartTuning:
    """Starts gateways whose LLMTune has these knobs."""

    async def start(
        plans: dict[str, str] | None = None,
        knobs: Json | None = None,
        **settings: Any,
    ) -> TuningHouse:
        wanted = {"fine_tune_poll_s": 30.0, **settings}
        return TuningHouse(await start_house(plans, QUICK | (knobs or {}), **wanted))

    return start


@pytest.fixture
async def tuning(start_tuning: StartTuning) -> TuningHouse:
    """One with default settings, whose jobs take a moment."""
    return await start_tuning()
