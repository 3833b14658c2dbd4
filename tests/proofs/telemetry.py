"""
A real Prometheus beside two replicas under a mixed load: is everything there, and true?

`python -m tests.proofs.telemetry [--workers N] [--seconds S]`. What the load generator
counts is compared with the counters to the unit; then every query of every dashboard
and every rule is asked of Prometheus, and has to return data.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from gateway.simulator.server import running_simulator
from gateway.simulator.settings import SimulatorSettings
from grafana.rules import ALERTS
from policies.key_store import new_stored_key
from policies.keyring import KeyRecord, digest_of, new_api_key
from tests.gateway_under_test import chat_body, write_policy
from tests.policies.keys_in_redis import key_store
from tests.proofs.check import Check, report, until
from tests.proofs.queries import (
    dashboard_queries,
    overview_panels,
    rule_queries,
    rules_each_second,
)
from tests.proofs.telemetry_jobs import PLAN, WEBHOOK_SECRET, JobLoad, job_variables
from tests.servers.prometheus import Prometheus, prometheus
from tests.servers.redis_server import RedisServer
from tests.serving import Samples, Serving, count_of, free_port, serving
from tests.webhooks.hooks import hooked

REPLICAS: Final = 2
CLIENTS: Final = 8
SETTLED_WITHIN_S: Final = 15.0
ROOT: Final = Path(__file__).parents[2]
PLANS: Final = {
    "open": """\
plan: open
concurrency: 500
rates: [{of: tokens, limit: 100000000, per: minute}]
idempotency: {ttl_s: 600}
cache: {ttl_s: 60}
""",
    "small": """\
plan: small
rates: [{of: requests, limit: 30, per: minute}]
quotas: [{of: tokens, limit: 500, per: day, shadow: true}]
""",
    PLAN: f"plan: {PLAN}\n",
}

FIRING: Final = 'count(ALERTS{alertstate="firing"}) or vector(0)'


class Load:
    """Mixed requests, and what their clients saw of them."""

    def __init__(self, replicas: list[Serving], seconds: float) -> None:
        self._replicas = replicas
        self._ends_s = time.monotonic() + seconds
        self._random = random.Random(6)
        # By the outcome that the metrics call it; and tokens by direction.
        self.outcomes: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.number = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        replica = self._replicas[number % len(self._replicas)]
        async with replica.client() as client:
            steps = [self._whole, self._streamed, self._refused, self._bad]
            steps += [self._failing, self._keyed, self._cached]
            while time.monotonic() < self._ends_s:
                step = self._random.choice(steps)
                await step(client, replica)

    async def _whole(self, client: httpx.AsyncClient, _: Serving) -> None:
        response = await client.post("/v1/chat/completions", json=chat_body())
        self._answered(response, "ok")

    def _answered(self, response: httpx.Response, outcome: str) -> None:
        self.outcomes[outcome] += 1
        if outcome != "ok":
            return
        assert response.status_code == 200, response.text
        if "idempotent-replayed" in response.headers:
            return
        if response.headers.get("x-cache") == "hit":
            return
        usage = response.json()["usage"]
        self.tokens["input"] += usage["prompt_tokens"]
        self.tokens["output"] += usage["completion_tokens"]

    async def _streamed(self, client: httpx.AsyncClient, _: Serving) -> None:
        body = chat_body(stream=True, stream_options={"include_usage": True})
        response = await client.post("/v1/chat/completions", json=body)
        assert response.text.endswith("data: [DONE]\n\n"), response.text[-200:]
        self.outcomes["ok"] += 1
        last = response.text.split("data: ")[-2]
        usage = httpx.Response(200, content=last).json()["usage"]
        self.tokens["input"] += usage["prompt_tokens"]
        self.tokens["output"] += usage["completion_tokens"]

    async def _refused(self, client: httpx.AsyncClient, replica: Serving) -> None:
        auth = {"authorization": f"Bearer {replica.keys['small']}"}
        response = await client.post(
            "/v1/chat/completions", json=chat_body(), headers=auth
        )
        is_refused = response.status_code == 429
        self._answered(response, "rejected" if is_refused else "ok")

    async def _bad(self, client: httpx.AsyncClient, _: Serving) -> None:
        if self._random.random() < 0.5:
            body = chat_body(temperature=9)
            response = await client.post("/v1/chat/completions", json=body)
            assert response.status_code == 400
            self.outcomes["invalid"] += 1
        else:
            wrong = {"authorization": "Bearer sk-wrong"}
            response = await client.get("/v1/models", headers=wrong)
            assert response.status_code == 401
            self.outcomes["unauthorized"] += 1

    async def _failing(self, client: httpx.AsyncClient, _: Serving) -> None:
        body = chat_body(model=self._random.choice(["simulator/error"]))
        response = await client.post("/v1/chat/completions", json=body)
        assert response.status_code == 502, response.text
        self.outcomes["upstream_error"] += 1

    async def _keyed(self, client: httpx.AsyncClient, _: Serving) -> None:
        self.number += 1
        headers = {"idempotency-key": f"key-{self.number}"}
        for _again in range(2):
            response = await client.post(
                "/v1/chat/completions", json=chat_body(), headers=headers
            )
            self._answered(response, "ok")

    async def _cached(self, client: httpx.AsyncClient, _: Serving) -> None:
        body = chat_body(temperature=0, seed=self._random.randrange(3))
        response = await client.post("/v1/chat/completions", json=body)
        self._answered(response, "ok")


@asynccontextmanager
async def deployment(folder: Path, workers: int) -> AsyncIterator[list[Serving]]:
    """Two replicas with one Redis, in front of a simulated LLMTune."""
    async with AsyncExitStack() as running:
        redis = await running.enter_async_context(RedisServer())
        pace = SimulatorSettings(
            ttft_ms=20, tokens_per_second=400, webhook_secret=WEBHOOK_SECRET
        )
        simulator = await running.enter_async_context(running_simulator(pace))
        keys, plans_dir, keys_file = write_policy(folder, PLANS)
        # One that expires within the year, so that there is something to tell.
        text = keys_file.read_text()
        expiring = "- {sha256: '%064x', workspace: w, plan: open, expires_at: %s}\n"
        keys_file.write_text(text + expiring % (1, "2099-01-01T00:00:00Z"))
        variables = {
            "GATEWAY_UPSTREAM_URL": simulator.base_url,
            "GATEWAY_UPSTREAM_API_KEY": "simulated",
            "GATEWAY_STORE_URL": redis.url,
            "GATEWAY_STORE_TIMEOUT_S": "1",
            "GATEWAY_PLANS_DIR": str(plans_dir),
            "GATEWAY_KEYS_FILE": str(keys_file),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
        }
        receiver = await running.enter_async_context(hooked())
        ending = await running.enter_async_context(stored_key(redis))
        replicas = []
        for _ in range(REPLICAS):
            port = free_port()
            own = variables | job_variables(folder, port, receiver)
            where = ("--port", str(port))
            replica = serving((own, keys), *where, workers=workers)
            replicas.append(await running.enter_async_context(replica))
            async with replicas[-1].client() as client:
                auth = {"authorization": f"Bearer {ending}"}
                limits = await client.get("/v1/limits", headers=auth)
                assert limits.status_code == 200, limits.text
        yield replicas


@asynccontextmanager
async def stored_key(redis: RedisServer) -> AsyncIterator[str]:
    """A key of the store that ends, so that there is something to tell of it too."""
    api_key, now = new_api_key(), datetime.now(UTC)
    record = KeyRecord(
        sha256=digest_of(api_key),
        workspace="stored",
        plan="open",
        expires_at=now + timedelta(days=365),
    )
    async with key_store(redis.url) as keys:
        await keys.create(new_stored_key(record, now))
        yield api_key


async def counted(replicas: list[Serving]) -> list[Samples]:
    return [await replica.scrape() for replica in replicas]


async def compare(
    replicas: list[Serving], load: Load, job_load: JobLoad
) -> list[Check]:
    """What the load saw and what the replicas have counted of it, to the unit."""
    samples: list[Samples] = []

    def total(name: str, **labels: str) -> float:
        return sum(count_of(each, name, **labels) for each in samples)

    async def is_settled() -> bool:
        samples[:] = await counted(replicas)
        batches = job_load.batches.total()
        told = total("webhook_deliveries_total", outcome="delivered")
        are_told = min(told, total("batch_duration_seconds_count")) >= batches
        return are_told and total("tokens_total") >= load.tokens.total()

    # A request is counted a moment after its client has the answer, and a batch after
    # it is seen to have ended.
    await until(is_settled, "the last settlement", within_s=SETTLED_WITHIN_S)
    routes = ("/v1/chat/completions", "/v1/models")
    checks = []
    for outcome, seen in sorted(load.outcomes.items()):
        told = sum(total("requests_total", route=r, outcome=outcome) for r in routes)
        checks.append(_equal(f"requests {outcome}", seen, told))
    for direction, seen in sorted(load.tokens.items()):
        told = total("tokens_total", direction=direction)
        checks.append(_equal(f"tokens {direction}", seen, told))
    told = total("rejections_total")
    checks.append(_equal("rejections", load.outcomes["rejected"], told))
    return [*checks, *job_load.checks(samples)]


def _equal(name: str, seen: float, told: float) -> Check:
    return Check(name, f"{seen:g} seen, {told:g} counted", seen == told)


async def ask_all(server: Prometheus) -> list[Check]:
    """Every query of the dashboards and rules: each has to return data."""
    empty: list[str] = []
    queries = [*dashboard_queries(), *rule_queries()]
    for where, expression in queries:
        if not await server.query(expression):
            empty.append(f"{where}: {expression}")
    figure = f"{len(queries) - len(empty)} of {len(queries)} return data"
    return [
        Check("queries of dashboards and rules", figure, not empty),
        *(Check("no data", each, is_good=False) for each in empty),
    ]


async def figures_of(server: Prometheus, started_s: float) -> list[dict[str, Any]]:
    """What the overview's panels show of the time since then."""
    panels = []
    now_s = time.time()
    for title, unit, queries in overview_panels():
        lines = []
        for legend, expression in queries:
            found = await server.query_range(
                expression, start_s=started_s, end_s=now_s, step_s=1
            )
            lines += [_line(legend, series, started_s) for series in found]
        panels.append({"title": title, "unit": unit, "lines": lines})
    return panels


def _line(legend: str, series: dict[str, Any], started_s: float) -> list[Any]:
    for name, value in series["metric"].items():
        legend = legend.replace("{{" + name + "}}", value)
    points = [(at - started_s, float(value)) for at, value in series["values"]]
    return [legend, [point for point in points if math.isfinite(point[1])]]


async def prove(
    folder: Path, *, workers: int, seconds: float, figures: Path | None = None
) -> list[Check]:
    """The whole proof, for replicas of so many workers."""
    async with deployment(folder, workers) as replicas:
        targets = [replica.url.removeprefix("http://") for replica in replicas]
        rules = rules_each_second(folder)
        async with prometheus(folder, targets, rule_files=rules) as server:
            started_s, load = time.time(), Load(replicas, seconds)
            job_load = JobLoad(replicas, seconds)
            await asyncio.gather(load.run(), job_load.run())
            checks = await compare(replicas, load, job_load)
            # Two more scrapes, so that what was counted last is there as well.
            await asyncio.sleep(3)
            checks += await ask_all(server)
            if figures is not None:
                shown = await figures_of(server, started_s)
                await asyncio.to_thread(figures.write_text, json.dumps(shown))
            firing = await server.query(FIRING)
            checks.append(Check("alerts known", str(len(ALERTS))))
            checks.append(Check("alerts firing", firing[0]["value"][1]))
    return checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--figures", type=Path, help="write the overview's to here")
    args = parser.parse_args()
    checks: list[Any] = []
    for workers in args.workers:
        with tempfile.TemporaryDirectory() as folder:
            proof = prove(
                Path(folder),
                workers=workers,
                seconds=args.seconds,
                figures=args.figures,
            )
            checks.append(Check("workers a replica", str(workers)))
            checks += asyncio.run(proof)
    return report(checks)


if __name__ == "__main__":
    sys.exit(main())
