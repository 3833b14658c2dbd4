"""Metrics of several workers: to the unit, whichever of them is asked."""

from __future__ import annotations

import asyncio
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from tests.redis_fixtures import StartRedis
from tests.redis_servers import RedisServer
from tests.serving import (
    Samples,
    Serving,
    chat,
    count_of,
    environment_of,
    samples_of,
    serving,
    shrunk,
)
from tests.upstream import PATIENCE_S, ScriptedUpstream

Environment: TypeAlias = tuple[dict[str, str], dict[str, str]]

CLIENTS: Final = 20
REQUESTS_EACH: Final = 15
SENT: Final = CLIENTS * REQUESTS_EACH


@pytest.fixture
def environment(
    tmp_path: Path, upstream: ScriptedUpstream, redis_server: RedisServer
) -> Environment:
    return environment_of(tmp_path, upstream, redis_server.url)


async def load(running: Serving, answered: list[int]) -> None:
    """One client's requests, each on a connection of its own."""
    async with running.client() as client:
        for _ in range(REQUESTS_EACH):
            answered.append((await chat(client)).status_code)


async def watch(running: Serving, scrapes: list[Samples]) -> None:
    while True:
        scrapes.append(await running.scrape())


def chats(samples: Samples) -> float:
    return count_of(samples, "requests_total", route="/v1/chat/completions")


async def test_what_clients_count_is_what_is_counted(environment: Environment) -> None:
    """After a load the sums are exact, and no scrape during it goes back."""
    answered: list[int] = []
    scrapes: list[Samples] = []
    async with serving(environment) as running:
        watching = asyncio.ensure_future(watch(running, scrapes))
        await asyncio.gather(*(load(running, answered) for _ in range(CLIENTS)))
        watching.cancel()
        # A request is counted a moment after its client has the answer.
        final = await running.until_counted(lambda s: chats(s) >= SENT, "all requests")

    assert [200] * SENT == answered
    assert SENT == chats(final)
    assert SENT == count_of(
        final, "request_duration_seconds_count", route="/v1/chat/completions"
    )
    assert SENT == count_of(final, "admissions_total", decision="admitted")
    assert len(scrapes) > 2
    going_back = [shrunk(*two) for two in pairwise(scrapes)]
    assert [] == [each for each in going_back if each]


async def test_a_death_takes_nothing_back(environment: Environment) -> None:
    """Whatever was shown once stays counted, also of workers killed under load."""
    scrapes: list[Samples] = []
    async with serving(environment) as running:
        watching = asyncio.ensure_future(watch(running, scrapes))
        for deaths in (1, 2):
            await load(running, [])
            os.kill(running.pids[deaths - 1], signal.SIGKILL)
            await running.until_told("worker serves", 2 + deaths)
        await load(running, [])
        watching.cancel()
        last = await running.scrape()

    scrapes.append(last)
    going_back = [shrunk(*two) for two in pairwise(scrapes)]
    assert [] == [each for each in going_back if each]
    assert count_of(last, "worker_restarts_total") == 2


async def test_an_orderly_end_loses_nothing(environment: Environment) -> None:
    """A worker says its last count after its last request."""
    async with serving(environment) as running:
        await load(running, [])
        for slot in (0, 1):
            os.kill(running.pids[slot], signal.SIGTERM)
            await running.until_told("worker ended", slot + 1)

        final = await running.scrape()

    assert REQUESTS_EACH == chats(final)
    assert REQUESTS_EACH == count_of(final, "upstream_attempts_total", outcome="ok")


async def test_a_worker_that_hangs_counts_with_what_it_said(
    environment: Environment,
) -> None:
    """Who scrapes gets an answer in time, and nothing goes back."""
    async with serving(environment) as running:
        await load(running, [])
        before = await running.until_counted(
            lambda samples: chats(samples) >= REQUESTS_EACH, "all requests"
        )
        os.kill(running.pids[0], signal.SIGSTOP)
        answers = [asyncio.ensure_future(running.scrape()) for _ in range(12)]
        # Some have connected to the one that hangs.
        done, left = await asyncio.wait(
            answers, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
        for each in left:
            each.cancel()

        assert done
        for each in done:
            assert [] == shrunk(before, each.result())
            assert count_of(each.result(), "workers") == 2
        assert running.told("workers did not answer")


async def test_who_asks_together_is_answered_together(
    environment: Environment,
) -> None:
    """A worker is told of the newest that it asked; who asked before had asked it."""
    async with serving(environment) as running:
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*(running.scrape() for _ in range(20)))

    assert len(answers) == 20


async def test_without_a_supervisor_no_metrics_are_shown(
    environment: Environment,
) -> None:
    """It keeps no scraper waiting; one worker's own would be counters that fall."""
    async with serving(environment) as running:
        running.process.send_signal(signal.SIGSTOP)
        async with running.client() as client:
            response = await client.get("/metrics")
        told = await running.until_told("metrics are not to be had")
        running.process.send_signal(signal.SIGCONT)

        assert response.status_code == 503
        assert response.json()["error"]["code"] == "metrics_unavailable"
        assert "no answer in time" == told[0]["reason"]
        await running.until_counted(
            lambda samples: count_of(samples, "workers") == 2, "both workers"
        )


async def test_each_worker_is_a_replica_to_the_store(
    environment: Environment, start_redis: StartRedis
) -> None:
    """While the store is away a plan is divided by all who would spend it."""
    redis = await start_redis()
    environment[0]["GATEWAY_STORE_URL"] = redis.url
    async with serving(environment, workers=3) as running:
        await running.until_counted(
            lambda samples: count_of(samples, "replicas_seen") == 3, "three replicas"
        )


async def test_openmetrics_is_whole(environment: Environment) -> None:
    """The other form that Prometheus asks for."""
    async with serving(environment) as running, running.client() as client:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        response = await client.get("/metrics", headers=accept)
        plain = samples_of(await client.get("/metrics"))

    assert response.text.endswith("# EOF\n")
    assert "llmtune_gateway_build_info" in response.text
    assert count_of(plain, "build_info") == 1
    assert ("process_resident_memory_bytes", frozenset()) in plain
