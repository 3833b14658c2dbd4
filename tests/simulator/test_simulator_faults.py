"""Every fault, whole and streamed, by model id and by share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from gateway.simulator import FaultKind, SimulatorSettings
from gateway.simulator.faults import FaultDraw

from .harness import CHAT, INFERENCE, chat, events_of, simulated

BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def ask(kind: str, *, stream: bool = False) -> dict[str, Any]:
    return chat(model=f"simulator/{kind}", stream=stream)


@BOTH
async def test_refuse_resets_the_connection_before_any_answer(stream: bool) -> None:
    """The client sees a reset, not an end."""
    async with simulated() as (simulator, client):
        # An orderly close would be a RemoteProtocolError.
        with pytest.raises(httpx.ReadError):
            await client.post(CHAT, json=ask("refuse", stream=stream))

        await simulator.wait_until(lambda stats: stats.open == 0)
    assert simulator.stats.disconnects == 0


@BOTH
async def test_stall_never_answers_until_the_client_leaves(stream: bool) -> None:
    """The request hangs, and its end is noticed at once when the client goes."""
    async with simulated() as (simulator, client):
        request = asyncio.create_task(
            client.post(CHAT, json=ask("stall", stream=stream))
        )
        await simulator.wait_until(lambda stats: stats.faults["stall"] == 1)
        request.cancel()

        await simulator.wait_until(lambda stats: stats.disconnects == 1, 0.5)
        await simulator.wait_until(lambda stats: stats.open == 0, 0.5)


@BOTH
async def test_stall_is_bounded(stream: bool) -> None:
    """At the bound the connection is closed without an answer."""
    async with simulated(stall_ms=30) as (simulator, client):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json=ask("stall", stream=stream))

        await simulator.wait_until(lambda stats: stats.open == 0)


@BOTH
async def test_stall_stream_begins_and_never_ends(stream: bool) -> None:
    """Something arrives, then nothing, then the bound cuts it off."""
    received = b""
    async with simulated(stall_ms=50) as (_, client):
        body = ask("stall-stream", stream=stream)
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - the reading fails
            async with client.stream("POST", CHAT, json=body) as answer:
                async for part in answer.aiter_raw():
                    received += part

    assert received
    assert b"[DONE]" not in received


@BOTH
async def test_cut_ends_mid_answer_without_its_end(stream: bool) -> None:
    """Some of the answer arrives intact, then the connection is gone."""
    received = b""
    async with simulated() as (_, client):
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - the reading fails
            async with client.stream(
                "POST", CHAT, json=ask("cut", stream=stream)
            ) as answer:
                async for part in answer.aiter_raw():
                    received += part

    if stream:
        assert len(events_of(received.decode())) == 3
    else:
        assert received.startswith(b'{"id"')


async def test_malformed_answer_is_broken_json() -> None:
    """The body is complete as HTTP and half as JSON."""
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=ask("malformed"))

    assert answer.headers["content-type"] == "application/json"
    with pytest.raises(json.JSONDecodeError):
        answer.json()


async def test_malformed_stream_ends_in_half_an_event() -> None:
    """Three good events, half of a fourth, a proper end of body."""
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=ask("malformed", stream=True))

    *good, half = answer.text.split("\n\n")
    assert len(good) == 3
    assert half.startswith('data: {"id"')


@BOTH
async def test_content_type_is_a_web_page(stream: bool) -> None:
    """200 with a page, as a proxy in front of LLMTune would send."""
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=ask("content-type", stream=stream))

    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html")
    assert answer.text.startswith("<!doctype html>")


@BOTH
async def test_slow_headers_answer_late_and_well(stream: bool) -> None:
    """The status takes as long as the knob says; the answer is good."""
    async with simulated(slow_headers_ms=80) as (_, client):
        answer = await client.post(CHAT, json=ask("slow-headers", stream=stream))

    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() >= 0.08


@BOTH
@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("rate-limit", 429, "RATE_LIMIT_EXCEEDED"),
        ("credits", 402, "INSUFFICIENT_CREDITS"),
        ("error", 500, "INTERNAL_ERROR"),
        ("unavailable", 503, "SERVICE_UNAVAILABLE"),
        ("redirect", 302, "MOVED"),
    ],
)
async def test_refusals_have_their_status_and_code(
    kind: str, status: int, code: str, stream: bool
) -> None:
    """Streamed or not, a refusal is a plain error answer."""
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=ask(kind, stream=stream))

    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_followed_redirect_is_counted() -> None:
    """A gateway that follows a redirect is found out by the statistics."""
    async with simulated() as (simulator, client):
        await client.post(CHAT, json=ask("redirect"), follow_redirects=True)

    assert simulator.stats.requests["/simulator/redirected"] == 1


async def test_stream_error_is_an_event() -> None:
    """After good events comes an error object, and no [DONE]."""
    async with simulated(error_shape="docs") as (_, client):
        answer = await client.post(CHAT, json=ask("stream-error", stream=True))

    *good, last = events_of(answer.text)
    assert len(good) == 3
    assert json.loads(last)["error"] == "internal_error"


async def test_stream_error_without_a_stream_is_a_500() -> None:
    """A whole answer has no middle to go wrong in."""
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=ask("stream-error"))

    assert answer.status_code == 500


async def test_faults_are_within_reach_of_inference() -> None:
    """The fault's model id works in a path too."""
    async with simulated() as (simulator, client):
        answer = await client.post(
            "/v1/models/simulator/credits/inference", json={"prompt": "x"}
        )

    assert answer.status_code == 402
    assert simulator.stats.faults == {"credits": 1}


@pytest.mark.parametrize("kind", list(FaultKind))
async def test_every_fault_has_a_model(kind: FaultKind) -> None:
    """The listing shows how to exercise each fault."""
    async with simulated() as (_, client):
        listing = (await client.get("/api/agent/v1/models")).json()

    assert f"simulator/{kind}" in [model["id"] for model in listing["data"]]


async def test_shares_give_the_same_faults_for_the_same_seed() -> None:
    """Two simulators with one seed fail the same requests."""
    faults = {FaultKind.ERROR: 0.3, FaultKind.CREDITS: 0.3}
    histories = []
    for _ in range(2):
        async with simulated(faults=faults, seed=4) as (_, client):
            answers = [
                await client.post(INFERENCE, json={"prompt": "x"}) for _ in range(20)
            ]
        histories.append([answer.status_code for answer in answers])

    assert histories[0] == histories[1]
    assert {200, 402, 500} == set(histories[0])


def test_shares_are_met_in_the_long_run() -> None:
    """A share of 0.2 is a fifth of many draws."""
    settings = SimulatorSettings(faults={FaultKind.CUT: 0.2, FaultKind.STALL: 0.1})
    draw = FaultDraw(settings.faults, settings.seed)

    drawn = [draw.next() for _ in range(10_000)]

    assert 0.18 < drawn.count(FaultKind.CUT) / 10_000 < 0.22
    assert 0.08 < drawn.count(FaultKind.STALL) / 10_000 < 0.12
