"""A fine-tune that ends reaches whoever is registered, as OpenAI's webhooks do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.batches.conftest import ENDS_WITHIN_S
from tests.fine_tuning.conftest import JOBS, SLOW, StartTuning, TuningHouse
from tests.proofs.check import until
from tests.webhooks import hooks
from tests.webhooks.hooks import HookReceiver, hooked

HOOK_SECRET: Final = hooks.SECRET.reveal()


async def house_telling(
    start_tuning: StartTuning, tmp_path: Path, url: str, event: str, **knobs: Any
) -> TuningHouse:
    hook = {"workspace": "ws-open", "url": url, "events": [event]}
    file = tmp_path / "webhooks.yaml"
    file.write_text(json.dumps({"webhooks": [{**hook, "secret": HOOK_SECRET}]}))
    return await start_tuning(
        knobs=knobs, webhooks_file=file, webhooks_allowed=("127.0.0.0/8",)
    )


async def told(receiver: HookReceiver, job: dict[str, Any]) -> dict[str, Any]:
    """What was told of a job that ended, verified by Standard Webhooks' library."""

    async def is_told() -> bool:
        return bool(receiver.told)

    await until(is_told, "the end to be told", within_s=ENDS_WITHIN_S)
    (only,) = receiver.told
    event = only.verified()
    assert only.headers["webhook-id"] == event["id"]
    assert {
        "id": f"evt_{job['id']}_{job['status']}",
        "object": "event",
        "created_at": job["finished_at"],
        "type": f"fine_tuning.job.{job['status']}",
        "data": {"id": job["id"]},
    } == event
    return event


@pytest.mark.parametrize(
    ("name", "status"), [("t.jsonl", "succeeded"), ("to-fail.jsonl", "failed")]
)
async def test_a_job_that_ends_is_told_to_its_workspace(
    start_tuning: StartTuning, tmp_path: Path, name: str, status: str
) -> None:
    """Beside LLMTune's own events, which this receiver did not ask for."""
    async with hooked() as receiver:
        tuning = await house_telling(
            start_tuning, tmp_path, receiver.url, "fine_tuning.*"
        )
        file_id = await tuning.upload(name=name)
        started = await tuning.start(training_file=file_id)
        ended = await tuning.ended(started["id"])

        assert f"fine_tuning.job.{status}" == (await told(receiver, ended))["type"]


async def test_a_cancelled_job_is_told_too(
    start_tuning: StartTuning, tmp_path: Path
) -> None:
    async with hooked() as receiver:
        event = "fine_tuning.job.cancelled"
        tuning = await house_telling(
            start_tuning, tmp_path, receiver.url, event, **SLOW
        )
        started = await tuning.start()
        cancelled = await tuning.gateway.post(f"{JOBS}/{started['id']}/cancel")

        assert event == (await told(receiver, cancelled.json()))["type"]
