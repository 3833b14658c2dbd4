"""Answers for equal requests, of plans that have a cache."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body
from tests.service.test_idempotency import CHAT, NOBODY
from tests.service.test_joining import END, HELLO, until_joined
from tests.service.test_shared_limits import StartPair, start_pair
from tests.upstream import STREAM_HEAD, ScriptedUpstream, whole

__all__ = ["start_pair"]

CACHED = """\
plan: cached
cache: {ttl_s: 60}
quotas: [{of: requests, limit: 100, per: day}]
"""
ANSWER = whole(b'{"text":"Hello","tokens":9}')


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> GatewayUnderTest:
    return await start_gateway(
        {"cached": CACHED, "other": CACHED.replace("cached", "other")}
    )


async def ask(
    gateway: GatewayUnderTest,
    plan: str = "cached",
    control: str | None = None,
    **body: Any,
) -> httpx.Response:
    """A request that is meant to have one answer, unless its body says else."""
    headers = gateway.auth(plan)
    if control is not None:
        headers["cache-control"] = control
    asked = chat_body(**{"temperature": 0, **body})
    return await gateway.client.post(CHAT, json=asked, headers=headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_an_equal_request_gets_the_same_answer_for_nothing(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, stream: bool
) -> None:
    if stream:
        upstream.will_stream({"text": "Hello"}, {"done": True})

    first = await ask(gateway, stream=stream)
    again = await ask(gateway, stream=stream)

    assert (first.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert again.content == first.content
    assert "idempotent-replayed" not in again.headers
    assert again.headers["x-ratelimit-remaining-requests"] == "99"
    assert len(upstream.requests) == 1
    name = "llmtune_gateway_replays_total"
    for outcome in ("first", "stored"):
        await gateway.until_metric(f'{name}{{kind="cache",outcome="{outcome}"}} 1.0')


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"temperature": 0.5}, id="any answer"),
        pytest.param({"temperature": None}, id="the model's own temperature"),
        pytest.param({"plan": "open"}, id="a plan without a cache"),
        pytest.param({"control": "no-store"}, id="no-store"),
        pytest.param({"control": "max-age=0, No-Store"}, id="among others"),
    ],
)
async def test_what_is_not_to_be_cached_is_run_each_time(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, body: dict[str, Any]
) -> None:
    """And says nothing of a cache that it did not ask."""
    answers = [await ask(gateway, **body) for _ in range(2)]

    assert all("x-cache" not in answer.headers for answer in answers)
    assert len(upstream.requests) == 2


async def test_a_seed_makes_a_request_the_same_each_time(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    answers = [await ask(gateway, temperature=1, seed=n) for n in (1, 1, 2)]

    assert [a.headers["x-cache"] for a in answers] == ["miss", "hit", "miss"]


async def test_no_cache_runs_it_and_keeps_that(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    for text in ("one", "two"):
        upstream.will_answer({"text": text, "tokens": 9})

    first = await ask(gateway)
    fresh = await ask(gateway, control="no-cache")
    again = await ask(gateway)

    hits = [answer.headers["x-cache"] for answer in (first, fresh, again)]
    assert hits == ["miss", "miss", "hit"]
    assert again.content == fresh.content != first.content


async def test_another_workspace_has_a_cache_of_its_own(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    await ask(gateway)
    assert (await ask(gateway, plan="other")).headers["x-cache"] == "miss"


async def test_of_many_who_miss_one_asks_the_upstream(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    one, other = await start_pair({"cached": CACHED})
    go_on = asyncio.Event()
    upstream.will(go_on, ANSWER)
    asked = [asyncio.create_task(ask(g)) for g in (one, other) for _ in range(10)]
    await upstream.saw()
    await one.until_present(10)
    await other.until_present(10)
    go_on.set()

    answers = await asyncio.gather(*asked)

    assert len({answer.content for answer in answers}) == 1
    hits = [answer.headers["x-cache"] for answer in answers]
    assert (hits.count("miss"), hits.count("hit")) == (1, 19)
    assert len(upstream.requests) == 1


async def test_a_client_that_leaves_cancels_the_upstream(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Unless somebody else waits: it was promised nothing."""
    upstream.will("hang")
    leaving = asyncio.create_task(ask(gateway))
    await upstream.saw()
    leaving.cancel()
    await upstream.saw_disconnect()
    await gateway.until_free("cached")

    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    leaving = asyncio.create_task(ask(gateway, stream=True))
    await upstream.saw(2)
    staying = asyncio.create_task(ask(gateway, stream=True))
    await until_joined(gateway)
    leaving.cancel()
    go_on.set()

    assert (await staying).headers["x-cache"] == "hit"
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("status", [422, 500])
async def test_failures_are_not_cached(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, status: int
) -> None:
    upstream.will(whole(b'{"error":{"message":"no","code":"bad"}}', status=status))

    failed, answered = await ask(gateway), await ask(gateway)

    assert failed.status_code >= 400
    assert (answered.status_code, answered.headers["x-cache"]) == (200, "miss")


async def test_an_answer_is_forgotten_after_its_time(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway({"cached": "plan: cached\ncache: {ttl_s: 1}"})
    await ask(gateway)

    async with asyncio.timeout(5):
        while (await ask(gateway)).headers["x-cache"] == "hit":
            pass

    assert len(upstream.requests) == 2


async def test_an_answer_larger_than_the_cache_keeps_is_not_kept(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = "plan: cached\ncache: {max_answer_bytes: 300}"
    gateway = await start_gateway({"cached": plan})
    for _ in range(2):
        upstream.will_answer({"text": "x" * 300, "tokens": 9})

    answers = [await ask(gateway) for _ in range(2)]

    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "miss"]


async def test_without_its_store_a_cache_is_in_nobodys_way(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway({"cached": CACHED}, store_url=NOBODY)

    answers = [await ask(gateway) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(upstream.requests) == 2


async def test_a_key_is_answered_by_its_own_answer(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Who sends one asks for more than a cache promises."""
    await ask(gateway)
    headers = {**gateway.auth("cached"), "idempotency-key": "order-4711"}

    keyed = await gateway.client.post(
        CHAT, json=chat_body(temperature=0), headers=headers
    )

    assert "x-cache" not in keyed.headers
    assert len(upstream.requests) == 2
