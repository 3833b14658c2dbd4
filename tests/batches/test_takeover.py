"""Two gateways over one Redis and one storage: of a batch's driver that dies, too."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.background.starting import item_of
from gateway.batches.keeping import QUEUE
from gateway.batches.record import KIND
from gateway.secret import Secret
from gateway.simulator import SimulatorSettings, running_simulator
from policies.jobs.port import RecordName
from policies.key_names import job_queue
from tests.batches.conftest import (
    ENDPOINT,
    ENDS_WITHIN_S,
    SECRET,
    BatchHouse,
    StartHouse,
    ids_of,
    jsonl,
    line,
)
from tests.gateway_under_test import write_policy
from tests.proofs.check import until
from tests.redis_fixtures import StartRedis
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer
from tests.serving import Serving, serving

PLANS: Final = {
    "metered": """
plan: metered
quotas:
  - {of: requests, limit: 100000, per: month}
  - {of: tokens, limit: 100000000, per: month}
"""
}
LINES: Final = [
    *(line(f"plain-{number}") for number in range(100)),
    *(line(f"single-{number}", max_tokens=10) for number in range(12)),
]


@asynccontextmanager
async def another_gateway(
    folder: Path, settings: dict[str, Any]
) -> AsyncIterator[tuple[Serving, httpx.AsyncClient]]:
    """A process of its own, to be killed."""
    keys, plans_dir, keys_file = write_policy(folder, {"open": "plan: open\n", **PLANS})
    variables = {
        **os.environ,
        "GATEWAY_UPSTREAM_API_KEY": "sk_live_the_gateways_own_key",
        "GATEWAY_PLANS_DIR": str(plans_dir),
        "GATEWAY_KEYS_FILE": str(keys_file),
        "GATEWAY_WEBHOOK_SECRET": SECRET,
        **{f"GATEWAY_{name.upper()}": str(settings[name]) for name in settings},
    }
    async with serving((variables, keys), workers=1) as process:
        auth = {"authorization": f"Bearer {keys['metered']}"}
        async with httpx.AsyncClient(
            base_url=process.url, headers=auth, timeout=ENDS_WITHIN_S
        ) as client:
            yield process, client


async def begun(client: httpx.AsyncClient) -> str:
    """A batch that whoever has been asked drives."""
    files = {"file": ("input.jsonl", jsonl(LINES))}
    uploaded = await client.post("/v1/files", data={"purpose": "batch"}, files=files)
    wanted = {
        "input_file_id": uploaded.json()["id"],
        "endpoint": ENDPOINT,
        "completion_window": "24h",
    }
    created = await client.post("/v1/batches", json=wanted)
    assert 200 == created.status_code, created.text
    batch_id: str = created.json()["id"]
    return batch_id


async def until_single_lines_ran(house: BatchHouse, count: int) -> None:
    async def is_so() -> bool:
        used = await house.gateway.used("metered")
        return used["requests-per-calendar-month"] >= count

    await until(is_so, f"{count} lines to be charged", within_s=ENDS_WITHIN_S)


def let_its_lease_pass(redis: RedisServer, batch_id: str) -> None:
    """What takes 15 s: the work of a driver that has died is due again."""
    item = item_of(RecordName("ws-metered", KIND, batch_id))
    redis.command("ZADD", job_queue(QUEUE)[0], "XX", 0, item)


async def test_another_gateway_ends_the_batch_of_one_that_was_killed(
    start_house: StartHouse, start_redis: StartRedis, tmp_path: Path
) -> None:
    """In the middle of it: every line has its result once, and is charged once."""
    redis, port = await start_redis(), ReservedPort()
    knobs = SimulatorSettings(
        webhook_secret=SECRET, batch_ms=1000, tokens_per_second=40
    )
    async with running_simulator(knobs) as llmtune:
        shared: dict[str, Any] = {
            "upstream_url": llmtune.base_url,
            "store_url": redis.url,
            "storage_url": (tmp_path / "files").as_uri(),
            "public_url": f"http://127.0.0.1:{port.number}",
            "batch_result_timeout_s": 1.0,
        }
        async with another_gateway(tmp_path, shared) as (killed, client):
            batch_id = await begun(client)
            port.release()
            house = await start_house(
                PLANS, **shared, port=port.number, webhook_secret=Secret(SECRET)
            )
            await until_single_lines_ran(house, 3)
            await killed.end(signal.SIGKILL)
        let_its_lease_pass(redis, batch_id)

        ended = await house.ended(batch_id, "metered")

        assert {"total": 112, "completed": 112, "failed": 0} == ended["request_counts"]
        results = await house.results(ended, "metered")
        assert sorted(ids_of(LINES)) == sorted(ids_of(results))
        assert {
            "requests-per-calendar-month": 112,
            "tokens-per-calendar-month": ended["usage"]["total_tokens"],
        } == await house.gateway.used("metered")


async def test_lines_leave_half_of_the_places_to_who_waits(
    start_house: StartHouse, start_redis: StartRedis
) -> None:
    """Four are begun at a time, and each sees those that were begun before it."""
    redis = await start_redis()
    plan = "plan: pair\nconcurrency: 2\n"
    house = await start_house(
        {"pair": plan}, knobs={"tokens_per_second": 10}, store_url=redis.url
    )
    started = await house.start([line(str(n), max_tokens=10) for n in range(4)], "pair")

    async def is_begun() -> bool:
        return (await house.gateway.used("pair"))["concurrency"] > 0

    await until(is_begun, "a line", within_s=ENDS_WITHIN_S)
    answer = await house.gateway.chat("pair", max_tokens=2)

    assert 200 == answer.status_code
    await house.gateway.post(f"/v1/batches/{started['id']}/cancel", "pair")
    await house.ended(started["id"], "pair")
