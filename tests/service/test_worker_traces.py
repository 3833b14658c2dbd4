"""Traces of several workers: each exports its own, and is told from the others."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.gateway_under_test import until
from tests.redis_servers import RedisServer
from tests.servers.otlp import otlp_over_http
from tests.serving import chat, environment_of, serving
from tests.upstream import PATIENCE_S, ScriptedUpstream

REQUESTS = 40


async def test_every_worker_exports_its_requests(
    tmp_path: Path, upstream: ScriptedUpstream, redis_server: RedisServer
) -> None:
    """One trace a request, whichever worker took it, under a name of its own."""
    variables, keys = environment_of(tmp_path, upstream, redis_server.url)
    async with otlp_over_http() as collector:
        traced = {
            **variables,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "K8S_POD_UID": "pod",
        }
        async with serving((traced, keys)) as running:
            async with running.client() as client:
                answers = [await chat(client) for _ in range(REQUESTS)]
            await until(
                lambda: len(collector.of_kind("SERVER")) >= REQUESTS, "server spans"
            )

    assert [answer.status_code for answer in answers] == [200] * REQUESTS
    spans = collector.of_kind("SERVER")
    assert len({span.trace_id for span in spans}) == len(spans) == REQUESTS
    assert collector.instances == {"pod-0", "pod-1"}


async def test_a_wrong_variable_stops_all_workers_with_one_line(
    tmp_path: Path, upstream: ScriptedUpstream, redis_server: RedisServer
) -> None:
    """As it stops one process: told once, and nothing is left running."""
    variables, _ = environment_of(tmp_path, upstream, redis_server.url)
    wrong = {
        **variables,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_TRACES_SAMPLER": "nonsense",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--workers", "2", "--port", "0"),
        env=wrong,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), PATIENCE_S * 4)

    assert process.returncode == 2
    [line] = told.decode().splitlines()
    assert "OTEL_TRACES_SAMPLER" in line
