"""Native chat completions and the agent route, in OpenAI's shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.simulator.text import count_tokens

from .harness import CHAT, chat, content_of, objects_of, simulated

AGENT = "/api/agent/v1/chat/completions"


def tool(name: str) -> dict[str, Any]:
    properties = {"city": {"type": "string"}, "days": {"type": "integer"}}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER, CLOCK = tool("weather"), tool("clock")


@pytest.mark.parametrize("path", [CHAT, AGENT])
async def test_chat_answers_in_openai_shape(path: str) -> None:
    """A completion has every field OpenAI requires, and honest usage."""
    async with simulated() as (_, client):
        answer = (await client.post(path, json=chat())).json()

    choice = answer["choices"][0]
    assert {"id", "object", "created", "model", "choices", "usage"} == set(answer)
    assert {"index", "message", "logprobs", "finish_reason"} == set(choice)
    assert {"role", "content", "refusal"} == set(choice["message"])
    written = count_tokens(choice["message"]["content"])
    assert (2, written) == tuple(answer["usage"].values())[:2]


async def test_chat_stream_is_golden() -> None:
    """Same head on every chunk, role first, finish last, then usage, then [DONE]."""
    body = chat(stream=True, stream_options={"include_usage": True})
    async with simulated() as (_, client):
        whole = (await client.post(CHAT, json=chat())).json()
        chunks = objects_of((await client.post(CHAT, json=body)).text)

    heads = {(c["id"], c["object"], c["created"], c["model"]) for c in chunks}
    assert len(heads) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (
        chunks[-2]["choices"][0]["delta"],
        chunks[-2]["choices"][0]["finish_reason"],
    ) == ({}, "stop")
    assert ([], whole["usage"]) == (chunks[-1]["choices"], chunks[-1]["usage"])
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert whole["choices"][0]["message"]["content"] == content_of(chunks)


async def test_chat_stream_has_no_usage_unless_asked() -> None:
    """Without include_usage there is no usage field at all."""
    async with simulated() as (_, client):
        chunks = objects_of((await client.post(CHAT, json=chat(stream=True))).text)

    assert not any("usage" in chunk for chunk in chunks)


async def test_n_answers_differ_and_first_appear_in_order() -> None:
    """n choices are n texts, whole and streamed alike."""
    async with simulated() as (_, client):
        whole = (await client.post(CHAT, json=chat(n=3))).json()
        streamed = await client.post(CHAT, json=chat(n=3, stream=True))

    texts = [choice["message"]["content"] for choice in whole["choices"]]
    chunks = objects_of(streamed.text)
    assert len(set(texts)) == 3
    assert texts == [content_of(chunks, index) for index in range(3)]
    assert [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 2]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_chat_cut_off_by_its_limit_says_length(field: str) -> None:
    """Either limit cuts the answer and says so."""
    async with simulated() as (_, client):
        answer = (await client.post(CHAT, json=chat(**{field: 4}))).json()

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 4


async def test_stop_ends_the_text_before_the_stop_sequence() -> None:
    """The first stop sequence in the text ends it, and is not part of it."""
    async with simulated() as (_, client):
        whole = (await client.post(CHAT, json=chat())).json()
        answer = (await client.post(CHAT, json=chat(stop=["zzz", ". "]))).json()

    text = whole["choices"][0]["message"]["content"]
    choice = answer["choices"][0]
    assert text.split(". ")[0] == choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


async def test_logprobs_cover_every_token() -> None:
    """logprobs has one entry a token, with as many alternatives as asked."""
    body = chat(logprobs=True, top_logprobs=2)
    async with simulated() as (_, client):
        choice = (await client.post(CHAT, json=body)).json()["choices"][0]
        streamed = await client.post(CHAT, json={**body, "stream": True})

    entries = choice["logprobs"]["content"]
    in_chunks = [c["choices"][0]["logprobs"] for c in objects_of(streamed.text)]
    assert choice["message"]["content"] == "".join(e["token"] for e in entries)
    assert all(len(e["top_logprobs"]) == 2 and e["logprob"] <= 0 for e in entries)
    assert entries == [e for found in in_chunks if found for e in found["content"]]


async def test_tools_are_called_with_arguments_their_schema_allows() -> None:
    """Given tools, the model calls one, with deterministic arguments."""
    async with simulated() as (_, client):
        answer = (await client.post(AGENT, json=chat(tools=[WEATHER]))).json()

    choice = answer["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert (
        choice["finish_reason"],
        choice["message"]["content"],
    ) == ("tool_calls", None)
    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert json.loads(call["function"]["arguments"]) == {"city": "city", "days": 1}


async def test_tool_calls_stream_in_golden_form() -> None:
    """The first delta names the call, later ones carry only arguments."""
    body = chat(tools=[WEATHER, CLOCK], parallel_tool_calls=True, stream=True)
    async with simulated() as (_, client):
        chunks = objects_of((await client.post(CHAT, json=body)).text)

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    steps = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    named = [step for step in steps if "id" in step]
    assert [step["function"]["name"] for step in named] == ["weather", "clock"]
    assert deltas[0] == {"role": "assistant", "content": None}
    for index in range(2):
        later = [s for s in steps if s["index"] == index and "id" not in s]
        assert all({"index", "function"} == set(step) for step in later)
        arguments = "".join(step["function"]["arguments"] for step in later)
        assert json.loads(arguments) == {"city": "city", "days": 1}


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        pytest.param("none", [], id="none"),
        pytest.param("auto", ["weather"], id="auto"),
        pytest.param("required", ["weather"], id="required"),
        pytest.param(
            {"type": "function", "function": {"name": "clock"}}, ["clock"], id="named"
        ),
        pytest.param(
            {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [CLOCK]},
            },
            ["clock"],
            id="allowed",
        ),
    ],
)
async def test_tool_choice_decides_what_is_called(
    choice: Any, called: list[str]
) -> None:
    """tool_choice is obeyed in each of its forms."""
    body = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    async with simulated() as (_, client):
        answer = (await client.post(CHAT, json=body)).json()

    calls = answer["choices"][0]["message"].get("tool_calls", [])
    assert called == [call["function"]["name"] for call in calls]


async def test_tool_result_is_answered_with_text() -> None:
    """An agent's loop ends: after a tool's result the model speaks."""
    body = chat(tools=[WEATHER])
    body["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    async with simulated() as (_, client):
        answer = (await client.post(AGENT, json=body)).json()

    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["choices"][0]["message"]["content"]


async def test_custom_tool_is_called_with_an_input() -> None:
    """Custom tools take an input instead of arguments."""
    body = chat(tools=[{"type": "custom", "custom": {"name": "shell"}}])
    async with simulated() as (_, client):
        answer = (await client.post(CHAT, json=body)).json()

    call = answer["choices"][0]["message"]["tool_calls"][0]
    assert call["custom"] == {"name": "shell", "input": "input"}


async def test_json_object_is_answered_with_an_object() -> None:
    """response_format json_object makes the text one JSON object."""
    body = chat(response_format={"type": "json_object"})
    async with simulated() as (_, client):
        answer = (await client.post(CHAT, json=body)).json()

    content = json.loads(answer["choices"][0]["message"]["content"])
    assert isinstance(content, dict)


@pytest.mark.parametrize("stream", [False, True])
async def test_json_schema_is_answered_with_what_it_allows(stream: bool) -> None:
    """response_format json_schema makes the text a value of that schema."""
    schema = WEATHER["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "w", "schema": schema}}
    body = chat(response_format=wanted, stream=stream)
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=body)

    if stream:
        content = content_of(objects_of(answer.text))
    else:
        content = answer.json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"city": "city", "days": 1}


async def test_chat_seed_changes_the_text_and_repeats_it() -> None:
    """The request's own seed decides, if it has one."""
    async with simulated() as (_, client):
        texts = [
            (await client.post(CHAT, json=chat(seed=seed))).json()["choices"]
            for seed in (1, 1, 2)
        ]

    assert texts[0] == texts[1] != texts[2]


async def test_chat_model_that_cannot_stream_answers_whole() -> None:
    """Stream form json holds for the chat route too."""
    async with simulated(stream_form="json") as (_, client):
        answer = await client.post(CHAT, json=chat(stream=True))

    assert answer.json()["object"] == "chat.completion"


async def test_openai_extras_are_tolerated() -> None:
    """Fields LLMTune does not know, and nulls, are no errors."""
    extras = {"top_k": 5, "provider": {"only": ["x"]}, "stop": None, "n": None}
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=chat(**extras, metadata={"a": "b"}))

    assert answer.status_code == 200
    assert answer.json()["metadata"] == {"a": "b"}
