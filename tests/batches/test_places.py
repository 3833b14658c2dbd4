"""A workspace's files, batches and fine-tunes have a most that no plan lifts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.background.places import MOST_KEPT
from policies.jobs.port import RecordName
from tests.batches.conftest import ENDPOINT, BatchHouse, jsonl, line
from tests.gateway_under_test import MODEL, workspace_of

DAY_MS: Final = 86_400_000


async def fill(house: BatchHouse, kind: str) -> None:
    """As many of them as there may be, and older than any other."""
    jobs, workspace = house.gateway.gateway.shared.jobs, workspace_of("open")
    there = await jobs.count(workspace, kind)
    for number in range(MOST_KEPT - there):
        await jobs.create(RecordName(workspace, kind, f"{number:06}"), b"{}", DAY_MS)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["details"]["dimension"]


async def test_no_more_batches_are_made_than_are_kept(house: BatchHouse) -> None:
    """Once more, and the one that a key stands for already is still shown."""
    uploaded = (await house.upload(jsonl([line("1")]))).json()
    asked = {
        "input_file_id": uploaded["id"],
        "endpoint": ENDPOINT,
        "completion_window": "24h",
    }
    headers = {**house.gateway.auth(), "idempotency-key": "first"}
    first = await house.client.post("/v1/batches", json=asked, headers=headers)
    await fill(house, "batch")

    refused = await house.gateway.post("/v1/batches", **asked)
    again = await house.client.post("/v1/batches", json=asked, headers=headers)

    assert (429, "insufficient_quota", "kept-batches") == refusal(refused)
    assert (200, first.json()["id"]) == (again.status_code, again.json()["id"])


async def test_no_more_fine_tunes_are_made_than_are_kept(house: BatchHouse) -> None:
    """Nor is LLMTune asked for one."""
    uploaded = (await house.upload(jsonl([line("1")]), purpose="fine-tune")).json()
    await fill(house, "fine_tune")

    refused = await house.gateway.post(
        "/v1/fine_tuning/jobs", training_file=uploaded["id"], model=MODEL
    )

    assert (429, "insufficient_quota", "kept-fine-tuning-jobs") == refusal(refused)
    assert 0 == house.llmtune.stats.requests.get("/v1/fine-tune", 0)


@pytest.mark.parametrize("key", [None, "upload-1"])
async def test_no_more_files_are_kept(
    house: BatchHouse, key: str | None, tmp_path: Path
) -> None:
    """Nor is anything left of what was refused, which may have been received."""
    await fill(house, "file")

    headers = house.gateway.auth() | ({} if key is None else {"idempotency-key": key})
    refused = await house.client.post(
        "/v1/files",
        data={"purpose": "batch"},
        files={"file": ("input.jsonl", jsonl([line("1")]))},
        headers=headers,
    )

    assert (429, "insufficient_quota", "kept-files") == refusal(refused)
    assert [] == [each for each in (tmp_path / "files").rglob("*") if each.is_file()]
