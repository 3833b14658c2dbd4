"""Long jobs in a mixed load: batch after batch, a fine-tune, and who is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import httpx

from tests.gateway_under_test import MODEL, workspace_of
from tests.proofs.check import Check, until
from tests.serving import Samples, Serving, count_of
from tests.webhooks.hooks import SECRET as HOOK_SECRET
from tests.webhooks.hooks import HookReceiver

PLAN: Final = "jobs"
WEBHOOK_SECRET: Final = "whsec_of_the_proof"
LINES: Final = 5
ENDS_WITHIN_S: Final = 60.0
EXAMPLE: Final = {
    "messages": [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]
}


def job_variables(folder: Path, port: int, receiver: HookReceiver) -> dict[str, str]:
    """What a replica on this port needs for them; the folder is that of all."""
    hook = {
        "workspace": workspace_of(PLAN),
        "url": receiver.url,
        "events": ["batch.*"],
        "secret": HOOK_SECRET.reveal(),
    }
    file = folder / "webhooks.yaml"
    file.write_text(json.dumps({"webhooks": [hook]}))
    return {
        "GATEWAY_STORAGE_URL": (folder / "files").as_uri(),
        "GATEWAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "GATEWAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "GATEWAY_WEBHOOKS_FILE": str(file),
        "GATEWAY_WEBHOOKS_ALLOWED": "127.0.0.0/8",
        "GATEWAY_FINE_TUNE_POLL_S": "1",
    }


class JobLoad:
    """A batch after the other at each replica, and what their callers saw of them."""

    def __init__(self, replicas: list[Serving], seconds: float) -> None:
        self._replicas = replicas
        self._ends_s = time.monotonic() + seconds
        # By how they ended; and lines as the batches count them.
        self.batches: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    async def run(self) -> None:
        await asyncio.gather(*(self._client(each) for each in self._replicas))

    async def _client(self, replica: Serving) -> None:
        async with replica.client() as client:
            client.headers["authorization"] = f"Bearer {replica.keys[PLAN]}"
            await self._tune(client)
            while time.monotonic() < self._ends_s:
                await self._batch(client)

    async def _tune(self, client: httpx.AsyncClient) -> None:
        file_id = await _upload(client, [EXAMPLE] * 3, "fine-tune")
        job = {"model": MODEL, "training_file": file_id}
        created = await client.post("/v1/fine_tuning/jobs", json=job)
        assert created.status_code == 200, created.text

    async def _batch(self, client: httpx.AsyncClient) -> None:
        path = "/v1/chat/completions"
        body = {"model": MODEL, "messages": EXAMPLE["messages"][:1]}
        lines = [
            {"custom_id": str(number), "method": "POST", "url": path, "body": body}
            for number in range(LINES)
        ]
        wanted = {"endpoint": path, "completion_window": "24h"}
        wanted["input_file_id"] = await _upload(client, lines, "batch")
        created = await client.post("/v1/batches", json=wanted)
        assert created.status_code == 200, created.text
        batch: dict[str, Any] = created.json()

        async def has_ended() -> bool:
            batch.update((await client.get(f"/v1/batches/{batch['id']}")).json())
            return batch["status"] in {"completed", "failed"}

        await until(has_ended, "a batch to end", within_s=ENDS_WITHIN_S)
        self.batches[batch["status"]] += 1
        for outcome in ("completed", "failed"):
            self.lines[outcome] += batch["request_counts"][outcome]

    def checks(self, samples: list[Samples]) -> list[Check]:
        """What was seen, beside what the replicas have counted of it."""

        def compared(name: str, seen: float, metric: str, **labels: str) -> Check:
            told = sum(count_of(each, metric, **labels) for each in samples)
            return Check(name, f"{seen:g} seen, {told:g} counted", seen == told)

        ended, lines = "batch_duration_seconds_count", "batch_lines_total"
        delivered = "webhook_deliveries_total"
        told = self.batches.total()
        return [
            *(
                compared(f"batches {outcome}", seen, ended, outcome=outcome)
                for outcome, seen in sorted(self.batches.items())
            ),
            *(
                compared(f"batch lines {outcome}", seen, lines, outcome=outcome)
                for outcome, seen in sorted(self.lines.items())
            ),
            compared("batches told of", told, delivered, outcome="delivered"),
        ]


async def _upload(client: httpx.AsyncClient, lines: list[Any], purpose: str) -> str:
    content = "".join(json.dumps(each) + "\n" for each in lines).encode()
    uploaded = await client.post(
        "/v1/files", data={"purpose": purpose}, files={"file": ("l.jsonl", content)}
    )
    assert uploaded.status_code == 200, uploaded.text
    file_id: str = uploaded.json()["id"]
    return file_id
