"""Whole chat completions, over loopback, in front of every generation of LLMTune."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import (
    MODEL,
    UPSTREAM_KEY,
    GatewayUnderTest,
    events_of,
)
from tests.upstream import ScriptedUpstream

TEXT = "A good answer."

GENERATIONS = [
    pytest.param({"text": TEXT, "tokens": 40, "model": "m", "latency": 3}, id="total"),
    pytest.param(
        {"text": TEXT, "tokens": {"input": 30, "output": 10}}, id="two counts"
    ),
    pytest.param(
        {
            "id": "x",
            "model": "m",
            "usage": {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40},
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": TEXT},
                    "finish_reason": "stop",
                }
            ],
        },
        id="openai",
    ),
]


@pytest.mark.parametrize("answer", GENERATIONS)
async def test_every_generation_becomes_a_chat_completion(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, answer: dict[str, Any]
) -> None:
    """Whatever shape LLMTune answers in, the client sees OpenAI's."""
    upstream.will_answer(answer)

    response = await gateway.chat()

    assert response.status_code == 200
    completion = response.json()
    assert completion["object"] == "chat.completion"
    assert completion["id"].startswith("chatcmpl-")
    choice = completion["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert choice["finish_reason"] == "stop"
    usage = completion["usage"]
    assert usage["total_tokens"] == 40
    assert usage["prompt_tokens"] + usage["completion_tokens"] == 40


async def test_inference_gets_prompt_and_messages_and_both_spellings(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """One generation needs the prompt, another the messages: both are sent."""
    await gateway.chat(max_tokens=7, temperature=0.5, top_p=0.9, metadata={"a": "b"})

    sent = upstream.last
    assert sent.path == f"/v1/models/{MODEL}/inference"
    assert sent.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert sent.json == {
        "prompt": "Hello",
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": 0.5,
        "maxTokens": 7,
        "max_tokens": 7,
        "topP": 0.9,
        "top_p": 0.9,
        "metadata": {"a": "b"},
    }


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("n", 2),
        ("stop", "\n"),
        ("seed", 0),
        ("logprobs", True),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("presence_penalty", 1.5),
        ("reasoning_effort", "low"),
    ],
)
async def test_what_inference_cannot_carry_goes_by_the_chat_route(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, param: str, value: Any
) -> None:
    """
    In dialect auto a parameter that changes the answer is never dropped in silence.
    """
    await gateway.chat(**{param: value, "min_p": 0.1})

    assert upstream.last.path == "/v1/chat/completions"
    assert upstream.last.json[param] == value
    assert upstream.last.json["min_p"] == 0.1


async def test_inference_dialect_refuses_what_it_cannot_carry_by_name(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """In dialect inference the same is a clear 400, charged to nobody."""
    gateway = await start_gateway(upstream_dialect="inference")

    response = await gateway.chat(n=2)

    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "n")
    assert error["code"] == "unsupported_parameter"
    assert upstream.requests == []


async def test_developer_messages_reach_the_chat_route_as_system(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """LLMTune knows no developer role."""
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief.", "cache_control": {"type": "x"}},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]

    await gateway.chat(messages=messages, seed=1, max_completion_tokens=5)

    sent = upstream.last.json
    assert sent["messages"][0] == {**messages[0], "role": "system"}
    assert sent["messages"][1] == messages[1]
    assert sent["max_tokens"] == 5
    assert "max_completion_tokens" not in sent


FUNCTION = {"name": "f", "parameters": {"type": "object"}}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "f", "arguments": "{}"},
}


async def test_functions_go_up_as_tools_and_come_back_as_a_function_call(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Clients that never learned of tools still get their calls."""
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    upstream.will_answer({"choices": [choice]})
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "4"},
    ]

    response = await gateway.chat(
        messages=history, functions=[FUNCTION], function_call={"name": "f"}
    )

    sent = upstream.last.json
    assert sent["tools"] == [{"type": "function", "function": FUNCTION}]
    assert sent["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert sent["messages"][1]["tool_calls"][0]["id"] == "call_f"
    assert sent["messages"][2] == {
        "role": "tool",
        "tool_call_id": "call_f",
        "content": "4",
    }
    answered = response.json()["choices"][0]
    assert answered["message"]["function_call"] == CALL["function"]
    assert "tool_calls" not in answered["message"]
    assert answered["finish_reason"] == "function_call"


async def test_function_calls_stream(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """The same, piece by piece."""
    deltas = [
        {"tool_calls": [{**CALL, "index": 0}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": " "}}]},
    ]
    upstream.will_stream(*[{"choices": [{"index": 0, "delta": d}]} for d in deltas])

    events = events_of(await gateway.chat(functions=[FUNCTION], stream=True))

    said = [event["choices"][0] for event in events[:-1]]
    calls = [c["delta"]["function_call"] for c in said if "function_call" in c["delta"]]
    assert calls == [CALL["function"], {"arguments": " "}]
    assert said[-1]["finish_reason"] == "function_call"


async def test_a_base_url_without_v1_works_too(
    gateway: GatewayUnderTest,
) -> None:
    """The commonest mistake in setting a base_url is no mistake here."""
    response = await gateway.post(
        "/chat/completions", model=MODEL, messages=[{"role": "user", "content": "x"}]
    )

    assert response.status_code == 200


async def test_a_private_fleet_gets_its_own_key_and_address(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A workspace with a fleet of its own never reaches the shared upstream."""
    monkeypatch.setenv("FLEET_KEY", "sk_live_fleet")
    fleet = f"{{url: '{upstream.url}/fleet', api_key_env: FLEET_KEY}}"
    plan = f"plan: fleet\nupstream: {fleet}"
    gateway = await start_gateway({"fleet": plan}, upstream_url="http://127.0.0.1:9/v1")

    response = await gateway.chat("fleet")

    assert response.status_code == 200
    assert upstream.last.path.startswith("/v1/fleet/models/")
    assert upstream.last.headers["authorization"] == "Bearer sk_live_fleet"
