"""
What callers who wait notice of a large batch beside them.

    python -m tests.proofs.batch_beside [--rounds 3] [--seconds 15]

A gateway by the real command line, on a real Redis, answers a steady stream of chats;
every other round a batch of plain lines runs in the same process. LLMTune is simulated
by two processes, one for chats and one for batches, so that what it takes to answer a
batch is not measured. All of them share the machine's cores, though.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import httpx
import uvloop

from tests.gateway_under_test import chat_body, write_policy
from tests.proofs.batches import PLAN, SECRET, Scene, lines_of
from tests.proofs.check import Check, quantile, report, until
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer

# A second, spread evenly: a tenth of what one process answers.
CHATS_PER_S: Final = 100
BATCH_LINES: Final = 20_000
SLOWER_BY: Final = 1.10
START_WITHIN_S: Final = 20.0


@asynccontextmanager
async def simulated() -> AsyncIterator[str]:
    """LLMTune's base URL, of a process of its own."""
    port = ReservedPort()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", "simulate", "--port", str(port.number)),
        *("--webhook-secret", SECRET, "--answer-tokens", "20-40", "--batch-ms", "4000"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port.number}"
    try:
        async with httpx.AsyncClient() as client:

            async def is_there() -> bool:
                try:
                    await client.get(f"{url}/simulator/stats")
                except httpx.TransportError:
                    return False
                return True

            await until(is_there, "the simulator", within_s=START_WITHIN_S)
        yield f"{url}/v1"
    finally:
        process.kill()
        await process.wait()
        port.release()


async def chats(scene: Scene, key: str, seconds: float) -> list[float]:
    """How long each of a steady stream of chats took, in ms, from when it was due."""
    took_ms: list[float] = []
    auth = {"authorization": f"Bearer {key}"}

    async def ask(due_s: float) -> None:
        answer = await scene.client.post(
            "/v1/chat/completions", json=chat_body(), headers=auth
        )
        assert answer.status_code == 200, answer.text
        took_ms.append((time.perf_counter() - due_s) * 1000)

    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as asking:
        for number in range(int(seconds * CHATS_PER_S)):
            due_s = began_s + number / CHATS_PER_S
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            asking.create_task(ask(due_s))
    return took_ms


async def prove(rounds: int, seconds: float) -> list[Check]:
    with tempfile.TemporaryDirectory(prefix="gw-proof-") as name:
        folder = Path(name)
        async with RedisServer() as redis, simulated() as batches, simulated() as chat:
            scene = Scene(folder, redis.url, batches)
            fleet = f"upstream: {{url: '{chat}', api_key_env: CHATS_KEY}}"
            plans = {"metered": PLAN, "chats": f"plan: chats\n{fleet}\n"}
            keys, _, _ = write_policy(folder, plans)
            scene.environment["CHATS_KEY"] = "chats"
            scene.environment["GATEWAY_BATCH_RESULT_TIMEOUT_S"] = "60"
            async with scene.client, scene.gateway():
                return await compare(scene, keys["chats"], rounds, seconds)


async def compare(scene: Scene, key: str, rounds: int, seconds: float) -> list[Check]:
    lines = [each for each in lines_of(BATCH_LINES) if "max_tokens" not in each["body"]]
    await chats(scene, key, 3)
    alone: list[float] = []
    beside: list[float] = []
    ran = 0
    for _ in range(rounds):
        alone += await chats(scene, key, seconds)
        batch_id = await scene.start(lines)
        beside += await chats(scene, key, seconds)
        shown = await scene.show(batch_id)
        ran += shown["request_counts"]["completed"]
        await scene.client.post(f"/v1/batches/{batch_id}/cancel")
        await until(partial(is_over, scene, batch_id), "its end", within_s=60)
    p50, p99 = (quantile(alone, part) for part in (0.5, 0.99))
    p50_beside, p99_beside = (quantile(beside, part) for part in (0.5, 0.99))
    return [
        Check("cores", str(os.cpu_count())),
        Check("chats of each kind", str(len(alone))),
        Check("lines answered meanwhile", str(ran), ran > 0),
        Check("p50 alone and beside, ms", f"{p50:.2f} and {p50_beside:.2f}"),
        Check(
            "p99 alone and beside, ms",
            f"{p99:.2f} and {p99_beside:.2f} ({p99_beside / p99:.2f})",
            p99_beside <= p99 * SLOWER_BY,
        ),
    ]


async def is_over(scene: Scene, batch_id: str) -> bool:
    shown = await scene.show(batch_id)
    return shown["status"] in {"completed", "cancelled", "failed"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=15.0)
    args = parser.parse_args()
    return report(uvloop.run(prove(args.rounds, args.seconds)))


if __name__ == "__main__":
    raise SystemExit(main())
