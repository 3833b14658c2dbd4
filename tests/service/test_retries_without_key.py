"""Retries that SDKs make by themselves, of plans that join them to their request."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body, events_of, text_of
from tests.service.test_idempotency import CHAT
from tests.service.test_joining import END, HELLO, until_joined
from tests.upstream import STREAM_HEAD, ScriptedUpstream, whole

JOINS = """\
plan: joins
idempotency: {join_retries_s: 10}
quotas: [{of: requests, limit: 100, per: day}]
"""
ANSWER = whole(b'{"text":"Hello","tokens":9}')


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> GatewayUnderTest:
    return await start_gateway({"joins": JOINS})


async def ask(
    gateway: GatewayUnderTest, retry: int = 0, plan: str = "joins", **body: Any
) -> httpx.Response:
    """As OpenAI's SDKs ask: each attempt says which one it is."""
    headers = {**gateway.auth(plan), "x-stainless-retry-count": str(retry)}
    return await gateway.client.post(CHAT, json=chat_body(**body), headers=headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_retry_gets_the_answer_of_its_request(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, stream: bool
) -> None:
    """That is still running, whose client gave up: one call, one charge."""
    go_on = asyncio.Event()
    if stream:
        upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    else:
        upstream.will(go_on, ANSWER)
    leaving = asyncio.create_task(ask(gateway, stream=stream))
    await upstream.saw()
    leaving.cancel()
    await asyncio.wait([leaving])
    retry = asyncio.create_task(ask(gateway, 1, stream=stream))
    await until_joined(gateway)
    go_on.set()
    answer = await retry

    assert answer.status_code == 200
    assert answer.headers["idempotent-replayed"] == "true"
    assert len(upstream.requests) == 1
    await gateway.until_free("joins")
    assert (await gateway.used("joins"))["requests-per-calendar-day"] == 1


async def test_a_retry_gets_an_answer_that_nobody_was_there_for(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(go_on, ANSWER)
    leaving = asyncio.create_task(ask(gateway))
    await upstream.saw()
    leaving.cancel()
    await asyncio.wait([leaving])
    go_on.set()
    await gateway.until_present(0)

    assert (await ask(gateway, 1)).headers["idempotent-replayed"] == "true"
    assert len(upstream.requests) == 1


async def test_equal_prompts_that_are_no_retries_are_run_each(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """One after the other and at once: they want two answers."""
    go_on = asyncio.Event()
    upstream.will(ANSWER)
    upstream.will(go_on, ANSWER)
    upstream.will(ANSWER)
    await ask(gateway)
    running = asyncio.create_task(ask(gateway))
    await upstream.saw(2)

    other = await ask(gateway)
    go_on.set()

    assert {other.status_code, (await running).status_code} == {200}
    assert len(upstream.requests) == 3


async def test_an_answer_that_was_delivered_is_not_given_again(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Whoever says it is a retry then has lost nothing that we know of."""
    await ask(gateway)
    again = await ask(gateway, 1)

    assert "idempotent-replayed" not in again.headers
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("plan", ["joins", "open"])
async def test_another_request_or_plan_joins_nothing(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, plan: str
) -> None:
    """A plan that did not opt in never does."""
    go_on = asyncio.Event()
    upstream.will(go_on, ANSWER)
    running = asyncio.create_task(ask(gateway, plan=plan))
    await upstream.saw()
    body = {"max_tokens": 17} if plan == "joins" else {}

    other = await ask(gateway, 1, plan=plan, **body)
    go_on.set()

    assert "idempotent-replayed" not in other.headers
    assert (await running).status_code == 200
    assert len(upstream.requests) == 2


async def test_without_a_retry_the_request_ends_after_its_time(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = "plan: joins\nidempotency: {join_retries_s: 1}"
    gateway = await start_gateway({"joins": plan})
    upstream.will("hang")
    leaving = asyncio.create_task(ask(gateway))
    await upstream.saw()
    leaving.cancel()
    await asyncio.wait([leaving])

    await upstream.saw_disconnect()
    await gateway.until_free("joins")


async def test_what_failed_is_run_again(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    upstream.will(whole(b'{"error":{"message":"no"}}', status=500))
    upstream.will(whole(b'{"error":{"message":"no","code":"bad"}}', status=422))
    upstream.will(ANSWER)

    answers = [await ask(gateway, retry) for retry in range(3)]

    assert [answer.status_code for answer in answers] == [502, 422, 200]


async def test_the_text_is_whole_after_a_stream_was_cut(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    headers = {**gateway.auth("joins"), "x-stainless-retry-count": "0"}
    asked = chat_body(stream=True)
    async with gateway.client.stream(
        "POST", CHAT, json=asked, headers=headers
    ) as response:
        await anext(response.aiter_lines())
    retry = asyncio.create_task(ask(gateway, 1, stream=True))
    await until_joined(gateway)
    go_on.set()

    assert text_of(events_of(await retry)) == "Hello"


async def test_what_is_not_to_be_stored_is_not_joined(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(go_on, ANSWER)
    secret = {**gateway.auth("joins"), "cache-control": "no-store"}
    running = asyncio.create_task(
        gateway.client.post(CHAT, json=chat_body(), headers=secret)
    )
    await upstream.saw()
    retry = await gateway.client.post(
        CHAT, json=chat_body(), headers={**secret, "x-stainless-retry-count": "1"}
    )
    go_on.set()

    assert "idempotent-replayed" not in retry.headers
    assert (await running).status_code == 200
    assert len(upstream.requests) == 2
