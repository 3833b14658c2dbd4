"""What a request costs, however it ends (docs/architecture.md, What is charged)."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.upstream import LAST_CHUNK, STREAM_HEAD, ScriptedUpstream, frame, whole

COUNTED = """
plan: counted
quotas: [{of: requests, limit: 99, per: month}, {of: tokens, limit: 50000, per: month}]
"""
NOTHING = {"requests-per-calendar-month": 0, "tokens-per-calendar-month": 0}


async def test_a_client_that_leaves_before_any_answer_has_spent_its_prompt(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """LLMTune was already working for it."""
    gateway = await start_gateway({"counted": COUNTED})
    upstream.will("hang")
    request = asyncio.ensure_future(gateway.chat("counted"))
    await upstream.saw()
    request.cancel()
    with suppress(asyncio.CancelledError):
        await request
    await gateway.until_free("counted")

    used = await gateway.used("counted")
    assert used["requests-per-calendar-month"] == 1
    assert 0 < used["tokens-per-calendar-month"] < 20


BEFORE_THE_FIRST_EVENT = [
    pytest.param((STREAM_HEAD, frame({"error": "no"}), LAST_CHUNK), id="error event"),
    pytest.param((whole(b"<html>"),), id="page"),
    pytest.param((whole(b""),), id="empty"),
    pytest.param((STREAM_HEAD, "cut"), id="cut"),
]


@pytest.mark.parametrize("script", BEFORE_THE_FIRST_EVENT)
async def test_a_stream_that_fails_before_its_first_event_costs_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream, script: Any
) -> None:
    """The SDK will ask again, and must not pay twice."""
    gateway = await start_gateway({"counted": COUNTED})
    upstream.will(*script)

    response = await gateway.chat("counted", stream=True)

    assert response.status_code == 502
    assert await gateway.used("counted") == NOTHING


async def test_a_whole_request_that_our_shutdown_ends_costs_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """It is told to come back, so it is not charged for coming."""
    gateway = await start_gateway({"counted": COUNTED}, drain_timeout_s=0.1)
    upstream.will("hang")
    request = asyncio.ensure_future(gateway.chat("counted"))
    await upstream.saw()
    await gateway.server.drain()

    assert (await request).status_code == 503
    assert await gateway.used("counted") == NOTHING


async def test_a_stream_that_our_shutdown_ends_unbegun_costs_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """As long as nothing was sent it is a 503 like any other."""
    gateway = await start_gateway({"counted": COUNTED}, drain_timeout_s=0.1)
    upstream.will(STREAM_HEAD, "hang")
    request = asyncio.ensure_future(gateway.chat("counted", stream=True))
    await upstream.saw()
    await gateway.server.drain()

    assert (await request).status_code == 503
    assert await gateway.used("counted") == NOTHING


async def test_a_streams_place_is_free_when_its_client_sees_the_end(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Who may have one at a time may ask again at once."""
    gateway = await start_gateway({"one": "plan: one\nconcurrency: 1\n"})
    for _ in range(10):
        # The upstream takes its time to close after its end marker.
        late = asyncio.Event()
        end = frame({"text": "Hi"}) + frame("[DONE]")
        upstream.will(STREAM_HEAD, end, late, LAST_CHUNK)
        async with gateway.stream_chat("one") as stream:
            while await stream.next_event() != "[DONE]":
                pass
            assert (await gateway.chat("one")).status_code == 200
            late.set()


async def test_an_upload_that_our_shutdown_ends_is_told_so(
    start_gateway: StartGateway,
) -> None:
    """Also a request whose body is still on its way gets its 503."""
    gateway = await start_gateway(drain_timeout_s=0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.address.port)
    writer.write(gateway.raw_chat()[:-5])
    await gateway.until_present(1)
    await gateway.server.drain()

    assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
    writer.close()


async def test_an_open_stream_keeps_its_lease_beyond_the_ttl(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """An hours-long stream still counts against the concurrency."""
    gateway = await start_gateway(lease_ttl_s=1)
    upstream.will_stream({"text": "Hi"}, then="hang")
    loop = asyncio.get_running_loop()

    async with gateway.stream_chat() as stream:
        await stream.text_until("Hi")
        ends_s = loop.time() + 1.6
        while loop.time() < ends_s:
            assert gateway.held() == 1
            await asyncio.sleep(0.05)
    await gateway.until_free()


async def test_reservations_learn_what_answers_usually_cost(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Who does not say how much it wants is not held to the worst case for ever."""
    gateway = await start_gateway({"counted": COUNTED})

    async def reserved() -> int:
        before = (await gateway.used("counted"))["tokens-per-calendar-month"]
        upstream.will_answer({"text": "Hi", "tokens": {"input": 5, "output": 30}})
        response = await gateway.chat("counted")
        left = int(response.headers["x-ratelimit-remaining-tokens"])
        return 50_000 - left - before

    reservations = [await reserved() for _ in range(7)]

    assert reservations[0] > 1000
    assert reservations[-1] < 100


async def test_bounded_answers_teach_the_reservation_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Twenty answers cut at one token say nothing of the twenty-first."""
    gateway = await start_gateway({"counted": COUNTED})
    for _ in range(20):
        upstream.will_answer({"text": "H", "tokens": {"input": 5, "output": 1}})
        await gateway.chat("counted", max_tokens=1)
    before = (await gateway.used("counted"))["tokens-per-calendar-month"]

    response = await gateway.chat("counted")

    left = int(response.headers["x-ratelimit-remaining-tokens"])
    assert 50_000 - left - before > 1000


async def test_a_guess_of_ours_never_makes_a_request_too_large(
    start_gateway: StartGateway,
) -> None:
    """The caller said nothing that it could take back."""
    plan = "plan: small\nrates: [{of: tokens, limit: 2000, per: minute}]"
    gateway = await start_gateway({"small": plan})

    assert (await gateway.chat("small", n=20)).status_code == 200


async def test_native_calls_are_held_to_the_larger_of_two_spellings(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Nobody knows which of the two a generation reads."""
    gateway = await start_gateway(
        {"bound": "plan: bound\nrequest: {max_output_tokens: 100}"}
    )

    response = await gateway.post(
        "/v1/models/m/inference", "bound", prompt="x", maxTokens=1, max_tokens=5000
    )

    assert response.status_code == 400
    assert upstream.requests == []
