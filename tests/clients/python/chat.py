"""Whole chat completions."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from typing import Any

from openai import OpenAI

from tests.clients.python.scenario import (
    BASE_URL,
    HELLO,
    MODEL,
    ask,
    check_usage,
    connect,
    same,
    scenario,
)


@scenario
def chat() -> None:
    answer = ask(connect())

    assert answer.id.startswith("chatcmpl-")
    same("chat.completion", answer.object)
    same(MODEL, answer.model)
    choice = answer.choices[0]
    same("stop", choice.finish_reason)
    same("assistant", choice.message.role)
    assert choice.message.content
    assert choice.message.tool_calls is None
    check_usage(answer.usage)
    assert answer._request_id.startswith("req_")
    # Pydantic warns, and warnings are errors here, if a field has an unexpected type.
    answer.model_dump_json()


@scenario
def chat_environment_only() -> None:
    answer = ask(OpenAI())

    assert answer.choices[0].message.content


@scenario
def chat_without_v1() -> None:
    client = connect(base_url=BASE_URL.removesuffix("/v1"))

    assert ask(client).choices[0].message.content
    assert MODEL in [model.id for model in client.models.list()]
    same(MODEL, client.models.retrieve(MODEL).id)


@scenario
def chat_cut_by_max_tokens() -> None:
    client = connect()

    for limit in ("max_tokens", "max_completion_tokens"):
        # A seed takes the native chat route, which says exactly why it ended; the
        # inference route says so only in streams.
        whole = ask(client, seed=1, **{limit: 3})
        same("length", whole.choices[0].finish_reason)
        same(3, whole.usage.completion_tokens)
        *_, last = ask(client, stream=True, **{limit: 3})
        same("length", last.choices[0].finish_reason)


@scenario
def chat_n() -> None:
    first, second = ask(connect(), n=2).choices

    same([0, 1], [first.index, second.index])
    assert first.message.content
    assert second.message.content
    assert first.message.content != second.message.content


@scenario
def chat_developer_role() -> None:
    client = connect()
    picture = {"url": "data:image/png;base64,iVBORw0KGgo="}
    question = [
        {"type": "text", "text": "What is"},
        {"type": "text", "text": "this?"},
    ]
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": question},
        {"role": "assistant", "content": "What?"},
        {"role": "user", "content": question, "name": "ada"},
    ]

    assert ask(client, messages=messages).choices[0].message.content

    # A picture is what the inference route cannot carry.
    messages[-1]["content"] = [*question, {"type": "image_url", "image_url": picture}]
    assert ask(client, messages=messages).choices[0].message.content


@scenario
def chat_every_parameter() -> None:
    answer = connect().chat.completions.create(
        model=MODEL,
        messages=HELLO,
        frequency_penalty=0.5,
        logit_bias={"50256": -100},
        max_completion_tokens=50,
        metadata={"team": "edge"},
        parallel_tool_calls=True,
        presence_penalty=-0.5,
        prompt_cache_key="cache",
        reasoning_effort="low",
        response_format={"type": "text"},
        safety_identifier="user-1",
        seed=7,
        service_tier="auto",
        stop=["###", "\n\n"],
        store=False,
        temperature=0.2,
        top_p=0.9,
        user="user-1",
        verbosity="low",
        extra_body={"top_k": 5, "min_p": 0.1, "provider": {"order": ["a"]}},
    )

    assert answer.choices[0].message.content


@scenario
def chat_logprobs() -> None:
    choice = ask(connect(), logprobs=True, top_logprobs=2).choices[0]

    logprobs = choice.logprobs.content
    same(choice.message.content, "".join(entry.token for entry in logprobs))
    assert all(len(entry.top_logprobs) == 2 for entry in logprobs)
