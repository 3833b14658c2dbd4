"""What a chat request may say, and what it is told when it says something else."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, envelope
from gateway.schemas.openai import MAX_MESSAGES
from gateway.translation.chat_request import parse_chat_request
from tests.unit.wire import MODEL, USER, body, chat, refusal, upstream_of

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM_CALL = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}
SCHEMA = {"name": "answer", "schema": {"type": "object"}, "strict": True}
TEXT_PART = {"type": "text", "text": "4"}
AUDIO = {"data": "AA==", "format": "wav"}

ACCEPTED: list[tuple[str, list[Any]]] = [
    ("temperature", [None, 0, 1, 2, 0.7, 2.0]),
    ("top_p", [None, 0, 1, 0.5]),
    ("n", [None, 1, 128]),
    ("stop", [None, "x", ["x"], ["a", "b", "c", "d"], "", []]),
    ("max_tokens", [None, 1, 2**31 - 1]),
    ("max_completion_tokens", [None, 1, 4096]),
    ("presence_penalty", [None, -2, 0, 2, 0.5]),
    ("frequency_penalty", [None, -2, 0, 2, -0.5]),
    ("logit_bias", [None, {}, {"50256": -100, "1": 100}]),
    ("logprobs", [None, False, True]),
    ("seed", [None, 0, -1, 2**62, -(2**63) + 1, 2**63 - 2]),
    ("stream", [None, False, True]),
    ("tools", [None, [], [{"type": "function", "function": FUNCTION}]]),
    ("tools", [[{"type": "custom", "custom": {"name": "f"}}]]),
    ("tool_choice", [None, "none", "auto", "required"]),
    ("tool_choice", [{"type": "function", "function": {"name": "f"}}]),
    ("tool_choice", [{"type": "custom", "custom": {"name": "f"}}]),
    ("tool_choice", [{"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}]),
    ("parallel_tool_calls", [None, True, False]),
    ("functions", [None, [FUNCTION], [FUNCTION] * 128]),
    ("function_call", [None, "none", "auto", {"name": "f"}]),
    ("response_format", [None, {"type": "text"}, {"type": "json_object"}]),
    ("response_format", [{"type": "json_schema", "json_schema": SCHEMA}]),
    ("reasoning_effort", [None, "none", "minimal", "low", "medium", "high", "xhigh"]),
    ("reasoning_effort", ["max"]),
    ("verbosity", [None, "low", "medium", "high"]),
    ("modalities", [None, ["text"], ["text", "audio"]]),
    ("audio", [None, {"voice": "alloy", "format": "wav"}]),
    ("prediction", [None, {"type": "content", "content": "x"}]),
    ("service_tier", [None, "auto", "default", "flex", "scale", "priority", "fast"]),
    ("store", [None, True, False]),
    ("metadata", [None, {}, {"k" * 64: "v" * 512}]),
    ("metadata", [{str(number): "v" for number in range(16)}]),
    ("user", [None, "someone"]),
    ("safety_identifier", [None, "x" * 128]),
    ("prompt_cache_key", [None, "key"]),
    ("prompt_cache_options", [None, {"mode": "explicit", "ttl": "30m"}]),
    ("prompt_cache_retention", [None, "in_memory", "24h"]),
    ("moderation", [None, {"model": "m", "policy": {"input": {"mode": "score"}}}]),
    ("web_search_options", [None, {}, {"search_context_size": "low"}]),
    ("top_k", [None, -1, 0, 50]),
]


TOOL: Final = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}={json.dumps(value)[:40]}")
        for name, values in ACCEPTED
        for value in values
    ],
)
def test_parameter_of_openai_is_accepted(name: str, value: Any) -> None:
    # OpenAI takes no choice among tools that are not there, and neither do we.
    tools = {"tools": [TOOL]} if name == "tool_choice" else {}
    parse_chat_request(body(**{name: value, **tools}))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"logprobs": True, "top_logprobs": 20}, id="top_logprobs"),
        pytest.param({"stream": True, "stream_options": {}}, id="stream_options"),
        pytest.param(
            {"stream": True, "stream_options": {"include_usage": True}}, id="usage"
        ),
        pytest.param(
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            id="obfuscation",
        ),
        pytest.param({"stream_options": None}, id="null-stream_options"),
        pytest.param({"top_logprobs": None}, id="null-top_logprobs"),
    ],
)
def test_combination_of_parameters_is_accepted(fields: dict[str, Any]) -> None:
    parse_chat_request(body(**fields))


@pytest.mark.parametrize(
    "message",
    [
        {"role": "developer", "content": "x"},
        {"role": "system", "content": "x", "name": "n"},
        {"role": "user", "content": ""},
        {"role": "user", "content": [TEXT_PART]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": AUDIO}]},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]},
        {"role": "assistant", "content": "x"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CUSTOM_CALL]},
        {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
        {"role": "tool", "content": "4", "tool_call_id": "c"},
        {"role": "tool", "content": [TEXT_PART], "tool_call_id": "c"},
        {"role": "function", "content": None, "name": "f"},
        {"role": "user", "content": "x", "cache_control": {"type": "ephemeral"}},
    ],
    ids=lambda message: json.dumps(message)[:60],
)
def test_message_of_openai_is_accepted(message: dict[str, Any]) -> None:
    parse_chat_request(body(messages=[message]))


@pytest.mark.parametrize(
    "name", ["min_p", "reasoning", "chat_template_kwargs", "provider", "\u00e9", ""]
)
@pytest.mark.parametrize("value", [1, {"a": [1]}, None, "x", 1e300])
def test_unknown_parameter_is_tolerated(name: str, value: Any) -> None:
    assert MODEL == parse_chat_request(body(**{name: value})).model


REFUSED: list[tuple[str, list[Any]]] = [
    ("model", [None, "", 5, ["m"], {}, "x" * 257]),
    ("messages", [None, "Hello", {}, [], 5]),
    ("messages", [[USER] * (MAX_MESSAGES + 1)]),
    ("temperature", [-0.1, 2.1, "1", True, [], {}]),
    ("top_p", [-0.1, 1.1, "1", True]),
    ("n", [0, -1, 129, 1.5, "1", True]),
    ("stop", [["a"] * 5, 5, {}, True]),
    ("max_tokens", [0, -1, 2**31, 10**30, 1.5, "1", True]),
    ("max_completion_tokens", [0, -5, 2**31, "many"]),
    ("presence_penalty", [-2.1, 2.1, "0"]),
    ("frequency_penalty", [-2.1, 2.1, []]),
    ("logit_bias", [[], "x", {"1": 101}, {"1": "x"}]),
    ("logprobs", [1, "true", {}]),
    ("top_logprobs", [-1, 21, "1", 1.5]),
    ("seed", [1.5, "1", 10**40, -(10**40)]),
    ("stream", ["true", 1, 0, {}]),
    ("stream_options", ["x", [], 5, True]),
    ("tools", ["x", {}, 5]),
    ("tool_choice", [5, [], True]),
    ("parallel_tool_calls", ["true", 1]),
    ("functions", [[], [FUNCTION] * 129, "x"]),
    ("function_call", [5, []]),
    ("response_format", ["json", [], 5]),
    ("reasoning_effort", ["extreme", 5]),
    ("verbosity", ["loud", 5]),
    ("modalities", ["text", 5, {}]),
    ("audio", ["x", []]),
    ("prediction", ["x"]),
    ("service_tier", ["gold", 5]),
    ("store", ["true", 1]),
    ("metadata", [[], "x", {"k" * 65: "v"}, {"k": "v" * 513}, {"k": 1}]),
    ("metadata", [{str(number): "v" for number in range(17)}]),
    ("user", [5, {}]),
    ("safety_identifier", ["x" * 129, 5]),
    ("prompt_cache_key", [5]),
    ("prompt_cache_options", ["x"]),
    ("prompt_cache_retention", ["7d"]),
    ("moderation", ["x"]),
    ("web_search_options", [True]),
    ("top_k", [-2, "x", 1.5]),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}={json.dumps(value)[:40]}")
        for name, values in REFUSED
        for value in values
    ],
)
def test_wrong_value_is_refused_by_its_name(name: str, value: Any) -> None:
    error = refusal(parse_chat_request, body(**{name: value}))

    assert (400, name) == (error.http_status, error.param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param(
            {"messages": [USER, 5]}, "messages[1]", id="message-that-is-a-number"
        ),
        pytest.param({"messages": [{}]}, "messages[0].role", id="no-role"),
        pytest.param(
            {"messages": [{"role": "bot", "content": "x"}]},
            "messages[0].role",
            id="unknown-role",
        ),
        pytest.param(
            {"messages": [{"role": ["user"], "content": "x"}]},
            "messages[0].role",
            id="role-as-list",
        ),
        pytest.param(
            {"messages": [USER, {"role": "user"}]}, "messages[1].content", id="content"
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": None}]},
            "messages[0].content",
            id="null-content",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": []}]},
            "messages[0].content",
            id="no-parts",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "messages[0].content[0].type",
            id="part-without-type",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            id="text-part-without-text",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": ["x"]}]},
            "messages[0].content[0]",
            id="part-as-text",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": "x", "name": 5}]},
            "messages[0].name",
            id="name",
        ),
        pytest.param(
            {"messages": [{"role": "assistant"}]},
            "messages[0].content",
            id="empty-assistant",
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].id",
            id="tool-call-without-id",
        ),
        pytest.param(
            {"messages": [{"role": "tool", "content": "4"}]},
            "messages[0].tool_call_id",
            id="tool-without-call",
        ),
        pytest.param(
            {"messages": [{"role": "function", "content": "4"}]},
            "messages[0].name",
            id="function-without-name",
        ),
        pytest.param({"stop": ["a", 5]}, "stop[1]", id="stop"),
        pytest.param({"tools": [{}]}, "tools[0].type", id="tool-without-type"),
        pytest.param({"tools": [{"type": "x"}]}, "tools[0].type", id="tool-type"),
        pytest.param(
            {"tools": [{"type": "function"}]}, "tools[0].function", id="no-function"
        ),
        pytest.param({"tools": [{"type": "custom"}]}, "tools[0].custom", id="custom"),
        pytest.param(
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            id="function-name",
        ),
        pytest.param(
            {"response_format": {"type": "xml"}}, "response_format.type", id="format"
        ),
        pytest.param(
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            id="no-schema",
        ),
        pytest.param({"modalities": ["video"]}, "modalities[0]", id="modality"),
        pytest.param({"top_logprobs": 3}, "top_logprobs", id="no-logprobs"),
        pytest.param(
            {"stream_options": {}}, "stream_options", id="options-without-stream"
        ),
        pytest.param(
            {"stream": True, "stream_options": {"include_usage": "yes"}},
            "stream_options.include_usage",
            id="include_usage",
        ),
    ],
)
def test_wrong_value_inside_is_refused_by_its_path(
    fields: dict[str, Any], param: str
) -> None:
    error = refusal(parse_chat_request, body(**fields))

    assert (400, param) == (error.http_status, error.param)


@pytest.mark.parametrize("name", ["model", "messages"])
def test_missing_parameter_is_named(name: str) -> None:
    fields = {"model": MODEL, "messages": [USER]}
    del fields[name]

    error = refusal(parse_chat_request, json.dumps(fields).encode())

    assert (name, f"Missing required parameter: '{name}'.") == (
        error.param,
        error.message,
    )


@pytest.mark.parametrize(
    "model",
    ["..", "a/../b", "a//b", "/a", "a/", ".", "a\x00", "a\nb", "a\\b", "a\u200bb"],
)
def test_model_id_that_would_change_the_path_is_refused(model: str) -> None:
    assert "model" == refusal(parse_chat_request, body(model=model)).param


@given(st.integers(1, 3), st.one_of(st.none(), st.integers(1, 1000)))
def test_demand_is_what_the_caller_allows(choices: int, most: int | None) -> None:
    demand = chat(body(n=choices, max_completion_tokens=most, max_tokens=7)).demand

    name = "max_completion_tokens" if most else "max_tokens"
    assert (most or 7, choices) == (demand.max_output_tokens, demand.choices)
    assert name == demand.output_param
    assert (most or 7) * choices == demand.most_output_tokens


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"messages": [{**USER, "content": "Hello " * 50}]}, id="text"),
        pytest.param({"messages": [USER, USER]}, id="message"),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            id="image",
        ),
        pytest.param(
            {"messages": [{"role": "assistant", "tool_calls": [CALL]}, USER]},
            id="tool-call",
        ),
        pytest.param(
            {"tools": [{"type": "function", "function": FUNCTION}]}, id="tool"
        ),
        pytest.param(
            {"response_format": {"type": "json_schema", "json_schema": SCHEMA}},
            id="format",
        ),
    ],
)
def test_demand_grows_with_what_is_sent(fields: dict[str, Any]) -> None:
    least = chat(body()).demand.input_tokens

    assert least < chat(body(**fields)).demand.input_tokens


def test_error_quotes_a_bounded_part_of_what_was_sent() -> None:
    raw = body(messages=[{"role": "x" * 1_000_000, "content": ""}])

    error = refusal(parse_chat_request, raw)

    assert isinstance(error, InvalidRequest)
    assert len(envelope(error)) < 1000


def test_request_of_the_most_messages_passes() -> None:
    raw = body(messages=[USER] * MAX_MESSAGES)

    assert MAX_MESSAGES == len(json.loads(upstream_of(raw).body)["messages"])
