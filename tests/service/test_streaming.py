"""Streams: every upstream form in, OpenAI's golden form out, an honest end."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from gateway.schemas.openai import ChatRequest
from gateway.translation.chat import ChatTranslator
from gateway.translation.native import NativeTranslator
from gateway.translation.text import TextTranslator
from tests.conftest import StartGateway
from tests.gateway_under_test import (
    MODEL,
    GatewayUnderTest,
    chat_body,
    events_of,
    text_of,
)
from tests.upstream import (
    LAST_CHUNK,
    PATIENCE_S,
    STREAM_HEAD,
    ScriptedUpstream,
    frame,
    whole,
)

CHUNKS = [
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": "lo"}}]},
    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]

PROMPTED = {"model": MODEL, "prompt": "Say hello.", "stream": True}

# Whatever has the prompt.
PARSED = (ChatRequest, ChatTranslator, TextTranslator, NativeTranslator)

FORMS = [
    pytest.param(CHUNKS, id="chunks"),
    pytest.param([{"text": "Hel"}, {"text": "lo"}], id="text"),
    pytest.param([{"token": "Hel"}, {"token": "lo"}, {"done": True}], id="token"),
    pytest.param([{"delta": "Hel"}, {"delta": {"content": "lo"}}], id="delta"),
]


@pytest.mark.parametrize("events", FORMS)
async def test_every_upstream_form_streams_in_openais(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, events: list[Any]
) -> None:
    """Role first, text after, one finish reason, the marker last."""
    upstream.will_stream(*events)

    response = await gateway.chat(stream=True)

    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events_of(response)
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert text_of(chunks) == "Hello"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_client_of_http_1_0_reads_a_stream_to_its_connections_end(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """As nginx asks by default: a 1.0 request must not be answered in chunks."""
    upstream.will_stream(*CHUNKS)
    of_today = await gateway.chat(stream=True)
    upstream.will_stream(*CHUNKS)

    request = gateway.raw_chat(stream=True)
    expecting = b"host: x\r\nexpect: 100-continue\r\n"
    request = request.replace(b"host: x\r\n", expecting)
    answer = await gateway.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in head
    assert b"transfer-encoding" not in head
    assert body.count(b"\n\n") == of_today.content.count(b"\n\n")
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_usage_comes_last_and_only_if_asked_for(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A client that did not ask is not confused by a chunk without choices."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    for _ in range(2):
        upstream.will_stream(*CHUNKS, {"choices": [], "usage": usage})

    plain = events_of(await gateway.chat(stream=True))
    asked = events_of(
        await gateway.chat(stream=True, stream_options={"include_usage": True})
    )

    assert all("usage" not in chunk for chunk in plain[:-1])
    assert all(chunk["usage"] is None for chunk in asked[:-2])
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"] == usage


async def test_json_from_a_model_that_cannot_stream_becomes_a_stream(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """The client asked for a stream and gets one, whatever the model can do."""
    upstream.will_answer({"text": "Hello", "tokens": 9})

    events = events_of(await gateway.chat(stream=True))

    assert text_of(events) == "Hello"
    assert events[-1] == "[DONE]"


async def test_a_failure_before_the_first_event_keeps_its_status(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """As long as nothing was sent, an SDK can still retry by status."""
    upstream.will_stream({"error": {"message": "no GPU", "code": "BUSY"}})

    response = await gateway.chat(stream=True)

    assert response.status_code == 502
    assert response.json()["error"]["message"] == "no GPU"


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param((frame({"error": "boom", "message": "boom"}),), id="error event"),
        pytest.param((frame("{half an ev"), LAST_CHUNK), id="half an event"),
        pytest.param(("cut",), id="cut"),
        pytest.param((LAST_CHUNK,), id="no end marker"),
        pytest.param((frame("x" * 2**21), LAST_CHUNK), id="two megabytes"),
    ],
)
async def test_a_failure_mid_stream_is_one_error_event_and_no_marker(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, ending: Any
) -> None:
    """A truncated answer never looks like a whole one, and what came before is kept."""
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}), *ending)

    response = await gateway.chat(stream=True)

    events = events_of(response)
    assert text_of(events) == "Hel"
    assert events[-1]["error"]["code"] == "upstream_error"
    assert "[DONE]" not in events


async def test_text_before_a_fault_in_the_same_chunk_is_delivered(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A fault takes nothing back that was generated before it."""
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}) + frame("garbage"), LAST_CHUNK)

    events = events_of(await gateway.chat(stream=True))

    assert text_of(events) == "Hel"
    assert "error" in events[-1]


async def test_text_before_an_oversized_event_in_the_same_chunk_is_delivered(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Nor does an event that is too large."""
    gateway = await start_gateway(upstream_max_event_bytes=1024)
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}) + frame("x" * 2000), LAST_CHUNK)

    events = events_of(await gateway.chat(stream=True))

    assert text_of(events) == "Hel"
    assert "larger than 1024 bytes" in events[-1]["error"]["message"]


async def test_an_idle_upstream_ends_the_stream_in_time(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Silence between events has a deadline of its own."""
    gateway = await start_gateway(upstream_idle_timeout_s=0.2)
    upstream.will_stream({"text": "Hel"}, then="hang")

    events = events_of(await gateway.chat(stream=True))

    assert events[-1]["error"]["code"] == "upstream_timeout"
    await upstream.saw_disconnect()


async def test_silence_is_broken_by_comments(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Load balancers cut silent connections; a comment is safe in every client."""
    gateway = await start_gateway(stream_ping_interval_s=0.1)
    go_on = asyncio.Event()
    end = frame({"text": "lo"}) + frame("[DONE]") + LAST_CHUNK
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}), go_on, end)

    async with gateway.stream_chat() as stream:
        await stream.text_until("Hel")
        assert await stream.next_line() == ": ping"
        go_on.set()
        await stream.text_until("lo")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        pytest.param("/v1/chat/completions", chat_body(stream=True), id="chat"),
        pytest.param("/v1/completions", PROMPTED, id="text"),
        pytest.param(f"/v1/models/{MODEL}/inference", PROMPTED, id="native"),
    ],
)
async def test_a_stream_that_runs_does_not_keep_its_prompt(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    path: str,
    asked: dict[str, Any],
) -> None:
    """A stream takes minutes, and a prompt may be megabytes: thousands are open."""
    go_on = asyncio.Event()
    upstream.will(
        STREAM_HEAD,
        frame({"text": "Hel"}),
        go_on,
        frame({"text": "lo"}) + frame("[DONE]"),
        LAST_CHUNK,
    )

    request = gateway.client.stream(
        "POST", path, json=asked, headers=gateway.auth("open")
    )
    async with request as response:
        lines = response.aiter_lines()
        async with asyncio.timeout(PATIENCE_S):
            while "Hel" not in await anext(lines):
                pass
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, PARSED)]
        go_on.set()
        assert "data: [DONE]" in [line async for line in lines]

    assert kept == []


async def test_a_long_wait_for_the_first_token_is_pinged_too(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Reasoning models think for minutes before their first token."""
    gateway = await start_gateway(stream_ping_interval_s=0.1)
    go_on = asyncio.Event()
    upstream.will(
        STREAM_HEAD, go_on, frame({"text": "Hi"}) + frame("[DONE]"), LAST_CHUNK
    )

    async with gateway.stream_chat() as stream:
        assert await stream.next_line() == ": ping"
        go_on.set()
        await stream.text_until("Hi")


async def test_streams_carry_the_same_limit_headers_as_whole_answers(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Frameworks pace themselves by these headers on either kind."""
    plan = "plan: paced\nrates: [{of: requests, limit: 10, per: minute}]"
    gateway = await start_gateway({"paced": plan})
    upstream.will_stream(*CHUNKS)

    streamed = await gateway.chat("paced", stream=True)
    answered = await gateway.chat("paced")

    assert streamed.headers["x-ratelimit-remaining-requests"] == "9"
    assert answered.headers["x-ratelimit-remaining-requests"] == "8"


async def test_tool_calls_stream_by_the_chat_route(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """An id that upstream repeats in every delta reaches the client once."""
    call = {"index": 0, "id": "call_a", "type": "function"}
    deltas = [
        {"tool_calls": [{**call, "function": {"name": "f", "arguments": arguments}}]}
        for arguments in ("", '{"x"', ":1}")
    ]
    upstream.will_stream(*[{"choices": [{"index": 0, "delta": d}]} for d in deltas])
    tools = [{"type": "function", "function": {"name": "f"}}]

    events = events_of(await gateway.chat(stream=True, tools=tools))

    calls = [
        call
        for event in events[:-1]
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls", [])
    ]
    assert ["call_a", None, None] == [call.get("id") for call in calls]
    assert '{"x":1}' == "".join(call["function"]["arguments"] for call in calls)
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_page_instead_of_a_stream_is_an_upstream_error(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A captive portal's HTML is neither JSON nor events."""
    upstream.will(whole(b"<html>hi</html>", headers={"content-type": "text/html"}))

    response = await gateway.chat(stream=True)

    assert response.status_code == 502
    assert "html" not in response.text
