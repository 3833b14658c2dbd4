"""
A batch whose webhooks go astray and whose driver dies.

    python -m tests.proofs.batches [--lines 1000]

A gateway by the real command line, on a real Redis, runs a mixed batch against the
simulator, which drops, doubles and delays a fifth of its webhooks each. In the middle
the gateway is killed (SIGKILL), and another one goes on. Every line has to have its
result once, and the workspace's quota has to say what the batch says it took.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import uvloop

from gateway.simulator import SimulatorSettings, running_simulator
from tests.gateway_under_test import MODEL, write_policy
from tests.proofs.check import Check, report, until
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer

SECRET: Final = "whsec_of_the_proof"
PLAN: Final = """
plan: metered
quotas:
  - {of: requests, limit: 1000000, per: month}
  - {of: tokens, limit: 1000000000, per: month}
"""
SHARE: Final = 0.2
# Of all lines, those that LLMTune's batch route cannot carry.
ONE_OF_SINGLE: Final = 5
START_WITHIN_S: Final = 20.0
ENDS_WITHIN_S: Final = 240.0


class Scene:
    """Where everything is, and what a caller does."""

    def __init__(self, folder: Path, store_url: str, upstream_url: str) -> None:
        keys, plans_dir, keys_file = write_policy(folder, {"metered": PLAN})
        self.port = ReservedPort()
        self.url = f"http://127.0.0.1:{self.port.number}"
        self.environment = {
            **os.environ,
            "GATEWAY_UPSTREAM_URL": upstream_url,
            "GATEWAY_UPSTREAM_API_KEY": "proof",
            "GATEWAY_STORE_URL": store_url,
            "GATEWAY_STORE_TIMEOUT_S": "1",
            "GATEWAY_PLANS_DIR": str(plans_dir),
            "GATEWAY_KEYS_FILE": str(keys_file),
            "GATEWAY_STORAGE_URL": (folder / "files").as_uri(),
            "GATEWAY_PUBLIC_URL": self.url,
            "GATEWAY_WEBHOOK_SECRET": SECRET,
            "GATEWAY_BATCH_RESULT_TIMEOUT_S": "3",
            "GATEWAY_LOG_LEVEL": "error",
        }
        auth = {"authorization": f"Bearer {keys['metered']}"}
        self.client = httpx.AsyncClient(base_url=self.url, headers=auth, timeout=20)

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """One that answers; killed with the block if it lives so long."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway", "serve", "--port", str(self.port.number)),
            env=self.environment,
        )
        try:
            await until(self._is_ready, "a gateway", within_s=START_WITHIN_S)
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _is_ready(self) -> bool:
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def start(self, lines: list[dict[str, Any]]) -> str:
        """A batch of these lines."""
        content = "".join(json.dumps(each) + "\n" for each in lines).encode()
        files = {"file": ("lines.jsonl", content)}
        form = {"purpose": "batch"}
        uploaded = await self.client.post("/v1/files", data=form, files=files)
        wanted = {
            "input_file_id": uploaded.json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        created = await self.client.post("/v1/batches", json=wanted)
        batch_id: str = created.json()["id"]
        return batch_id

    async def show(self, batch_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = (
            await self.client.get(f"/v1/batches/{batch_id}")
        ).json()
        return shown

    async def ids_in(self, file_id: str | None) -> list[str]:
        """Whose results are in a file."""
        if file_id is None:
            return []
        content = (await self.client.get(f"/v1/files/{file_id}/content")).text
        return [json.loads(each)["custom_id"] for each in content.splitlines()]

    async def used(self) -> dict[str, int]:
        """What the quotas say."""
        limits = (await self.client.get("/v1/limits")).json()["limits"]
        return {each["dimension"]: each["used"] for each in limits}


def lines_of(count: int) -> list[dict[str, Any]]:
    """Plain ones, and between them some that have to go by themselves."""
    lines = []
    for number in range(count):
        body: dict[str, Any] = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Say {number}"}],
        }
        if number % ONE_OF_SINGLE == 0:
            body["max_tokens"] = 20
        lines.append(
            {
                "custom_id": f"line-{number}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": body,
            }
        )
    return lines


async def run(count: int) -> list[Check]:
    knobs = SimulatorSettings(
        webhook_secret=SECRET,
        webhook_drop=SHARE,
        webhook_double=SHARE,
        webhook_late=SHARE,
        batch_ms=500,
        tokens_per_second=100,
    )
    with tempfile.TemporaryDirectory(prefix="gw-proof-") as name:
        folder = Path(name)
        async with RedisServer() as redis, running_simulator(knobs) as llmtune:
            scene = Scene(folder, redis.url, llmtune.base_url)
            async with scene.client:
                return await prove(scene, count)


async def prove(scene: Scene, count: int) -> list[Check]:
    lines = lines_of(count)
    batch: dict[str, Any] = {}
    async with scene.gateway() as first:
        batch_id = await scene.start(lines)

        async def is_half_way() -> bool:
            batch.update(await scene.show(batch_id))
            return bool(batch["request_counts"]["completed"] >= count // 4)

        await until(is_half_way, "a quarter of the lines", within_s=ENDS_WITHIN_S)
        first.kill()
    killed_at = batch["request_counts"]["completed"]
    began_s = time.monotonic()
    async with scene.gateway():

        async def has_ended() -> bool:
            batch.update(await scene.show(batch_id))
            return batch["status"] in {"completed", "failed", "expired"}

        await until(has_ended, "the batch", within_s=ENDS_WITHIN_S)
        took_s = time.monotonic() - began_s
        answers = await scene.ids_in(batch["output_file_id"])
        errors = await scene.ids_in(batch["error_file_id"])
        used = await scene.used()
    wanted = sorted(each["custom_id"] for each in lines)
    tokens = batch["usage"]["total_tokens"]
    counts = batch["request_counts"]
    return [
        Check("lines answered at the kill", f"{killed_at}", killed_at < count),
        Check("status", batch["status"], batch["status"] == "completed"),
        Check(
            "lines with one result",
            f"{len(set(answers + errors))} of {count}",
            sorted(answers + errors) == wanted,
        ),
        Check("lines that failed", str(counts["failed"]), counts["failed"] == 0),
        _equal("requests charged", used["requests-per-calendar-month"], count),
        _equal("tokens charged", used["tokens-per-calendar-month"], tokens),
        Check("seconds after the kill", f"{took_s:.1f}"),
    ]


def _equal(name: str, found: int, wanted: int) -> Check:
    return Check(name, f"{found} of {wanted}", found == wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1000)
    checks = uvloop.run(run(parser.parse_args().lines))
    return report(checks)


if __name__ == "__main__":
    raise SystemExit(main())
