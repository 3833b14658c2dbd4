"""
The largest batch that OpenAI takes, and what the gateway's memory grows by.

    python -m tests.proofs.large_batch [--lines 50000] [--mib 190]

A gateway by the real command line, on a real Redis, takes a file of so many bytes, runs
its lines and gives the results back. Its peak RSS is the kernel's (VmHWM).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import uvloop

from gateway.simulator import SimulatorSettings, running_simulator
from tests.gateway_under_test import MODEL
from tests.proofs.batches import SECRET, Scene
from tests.proofs.check import Check, report, until
from tests.servers.redis_server import RedisServer

MIB: Final = 1024 * 1024
GROWS_BELOW_MIB: Final = 64
ENDS_WITHIN_S: Final = 540.0
BOUNDARY: Final = "of-the-proof"


def peak_mib(pid: int) -> float:
    """The most that a process has had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [each for each in status.splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def line_of(number: int, line_bytes: int) -> bytes:
    """A plain request of about this size."""
    content = "x " * ((line_bytes - 180) // 2)
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    line = {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body,
    }
    return json.dumps(line).encode() + b"\n"


async def form(lines: int, line_bytes: int) -> AsyncIterator[bytes]:
    """The upload, made as it is sent."""
    head = f"--{BOUNDARY}\r\ncontent-disposition: form-data; name="
    yield f'{head}"purpose"\r\n\r\nbatch\r\n'.encode()
    yield f'{head}"file"; filename="lines.jsonl"\r\n\r\n'.encode()
    for number in range(lines):
        yield line_of(number, line_bytes)
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


async def run(lines: int, mib: int) -> list[Check]:
    knobs = SimulatorSettings(
        webhook_secret=SECRET, batch_ms=0, answer_tokens_min=20, answer_tokens_max=40
    )
    with tempfile.TemporaryDirectory(prefix="gw-proof-") as name:
        async with RedisServer() as redis, running_simulator(knobs) as llmtune:
            scene = Scene(Path(name), redis.url, llmtune.base_url)
            scene.environment["GATEWAY_BATCH_RESULT_TIMEOUT_S"] = "60"
            async with scene.client:
                return await prove(scene, lines, mib)


async def prove(scene: Scene, lines: int, mib: int) -> list[Check]:
    async with scene.gateway() as process:
        await asyncio.sleep(3)
        idle_mib = peak_mib(process.pid)
        began_s = time.monotonic()
        uploaded = await scene.client.post(
            "/v1/files",
            content=form(lines, mib * MIB // lines),
            headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}"},
            timeout=ENDS_WITHIN_S,
        )
        uploaded_s, upload_mib = time.monotonic() - began_s, peak_mib(process.pid)
        file = uploaded.json()
        wanted = {
            "input_file_id": file["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        began_s = time.monotonic()
        batch = (await scene.client.post("/v1/batches", json=wanted)).json()

        async def has_ended() -> bool:
            await asyncio.sleep(1)
            batch.update(await scene.show(batch["id"]))
            return batch["status"] in {"completed", "failed", "expired"}

        await until(has_ended, "the batch", within_s=ENDS_WITHIN_S)
        batch_s, batch_mib = time.monotonic() - began_s, peak_mib(process.pid)
        found = await count_lines(scene, batch["output_file_id"])
    return [
        Check("idle, MiB", f"{idle_mib:.0f}"),
        Check("uploaded, MiB", f"{file['bytes'] / MIB:.0f} in {uploaded_s:.1f} s"),
        _grown("peak after the upload", upload_mib, idle_mib),
        Check("status", batch["status"], batch["status"] == "completed"),
        Check("lines answered", f"{found} of {lines}", found == lines),
        Check("seconds of the batch", f"{batch_s:.0f}"),
        _grown("peak after the batch", batch_mib, idle_mib),
    ]


def _grown(name: str, mib: float, idle_mib: float) -> Check:
    is_bounded = mib - idle_mib < GROWS_BELOW_MIB
    return Check(name, f"{mib:.0f} MiB, {mib - idle_mib:.0f} above idle", is_bounded)


async def count_lines(scene: Scene, file_id: str) -> int:
    """How many different results there are; the file is not held either."""
    seen: set[str] = set()
    path = f"/v1/files/{file_id}/content"
    async with scene.client.stream("GET", path) as answer:
        async for line in answer.aiter_lines():
            seen.add(json.loads(line)["custom_id"])
    return len(seen)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=50_000)
    parser.add_argument("--mib", type=int, default=190)
    args = parser.parse_args()
    return report(uvloop.run(run(args.lines, args.mib)))


if __name__ == "__main__":
    raise SystemExit(main())
