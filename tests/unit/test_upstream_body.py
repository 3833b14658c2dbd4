"""What LLMTune is sent for a chat request, by each of its routes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import UnsupportedParameter
from gateway.settings import PromptForm
from gateway.translation.routes import check_model_id, inference_path
from tests.unit.wire import MODEL, USER, body, refusal, upstream_of

SYSTEM = {"role": "system", "content": "Be brief."}
DEVELOPER = {"role": "developer", "content": "Be brief."}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
TRANSCRIPT = "System: Be brief.\n\nUser: Hello\n\nAssistant:"
FLAT = [SYSTEM, USER]


def inference(form: PromptForm = "both", **fields: Any) -> Any:
    request = upstream_of(body(**fields), "inference", form)
    assert "inference" == request.route
    return json.loads(request.body)


def forwarded(**fields: Any) -> Any:
    request = upstream_of(body(**fields), "chat")
    assert ("chat", "/chat/completions") == (request.route, request.path)
    return json.loads(request.body)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        pytest.param("both", {"prompt": TRANSCRIPT, "messages": FLAT}, id="both"),
        pytest.param("prompt", {"prompt": TRANSCRIPT}, id="prompt"),
        pytest.param("messages", {"messages": FLAT}, id="messages"),
    ],
)
def test_inference_body_has_the_forms_that_are_set(
    form: PromptForm, expected: dict[str, Any]
) -> None:
    assert expected == inference(form, messages=[DEVELOPER, USER])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        pytest.param(
            "both",
            {"maxTokens": 9, "max_tokens": 9, "topP": 0.5, "top_p": 0.5, "topK": 4},
            id="both",
        ),
        pytest.param("prompt", {"maxTokens": 9, "topP": 0.5, "topK": 4}, id="prompt"),
        pytest.param(
            "messages", {"max_tokens": 9, "top_p": 0.5, "topK": 4}, id="messages"
        ),
    ],
)
def test_inference_body_spells_as_its_forms_do(
    form: PromptForm, expected: dict[str, Any]
) -> None:
    sent = inference(form, max_tokens=9, top_p=0.5, top_k=4)

    assert expected == {
        k: v for k, v in sent.items() if k not in {"prompt", "messages"}
    }


def test_inference_body_carries_zero_temperature_and_metadata() -> None:
    sent = inference(temperature=0, metadata={"a": "b"}, stream=True)

    assert (0, {"a": "b"}, True) == (
        sent["temperature"],
        sent["metadata"],
        sent["stream"],
    )


def test_newer_name_of_max_tokens_wins() -> None:
    assert 5 == inference(max_tokens=9, max_completion_tokens=5)["maxTokens"]


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "someone"},
        {"store": True},
        {"service_tier": "flex"},
        {"stop": ""},
        {"n": 1},
        {"presence_penalty": 0},
        {"logit_bias": {}},
        {"logprobs": False},
        {"tools": []},
        {"tool_choice": "auto"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"seed": None},
        {"top_p": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "assistant", "refusal": "No."}, USER]},
        {"min_p": 0.5},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
def test_request_that_inference_can_carry_goes_there(fields: dict[str, Any]) -> None:
    request = upstream_of(body(**fields))

    assert ("inference", f"/models/{MODEL}/inference") == (request.route, request.path)


NEEDS_CHAT = [
    pytest.param({"n": 2}, "n", id="n"),
    pytest.param({"stop": "x"}, "stop", id="stop"),
    pytest.param({"seed": 0}, "seed", id="seed-0"),
    pytest.param({"logit_bias": {"1": 5}}, "logit_bias", id="logit_bias"),
    pytest.param({"presence_penalty": 0.1}, "presence_penalty", id="presence"),
    pytest.param({"frequency_penalty": -1}, "frequency_penalty", id="frequency"),
    pytest.param({"logprobs": True}, "logprobs", id="logprobs"),
    pytest.param({"tools": [TOOL]}, "tools", id="tools"),
    pytest.param({"functions": [{"name": "f"}]}, "functions", id="functions"),
    pytest.param({"function_call": "auto"}, "function_call", id="function_call"),
    pytest.param({"reasoning_effort": "low"}, "reasoning_effort", id="effort"),
    pytest.param({"verbosity": "low"}, "verbosity", id="verbosity"),
    pytest.param({"audio": {"voice": "alloy"}}, "audio", id="audio"),
    pytest.param({"prediction": {"type": "content"}}, "prediction", id="prediction"),
    pytest.param({"moderation": {"model": "m"}}, "moderation", id="moderation"),
    pytest.param(
        {"web_search_options": {"search_context_size": "low"}},
        "web_search_options",
        id="web-search",
    ),
    pytest.param(
        {"response_format": {"type": "json_object"}}, "response_format", id="format"
    ),
    pytest.param({"modalities": ["text", "audio"]}, "modalities", id="modalities"),
    pytest.param(
        {"messages": [USER, {"role": "tool", "content": "4", "tool_call_id": "c"}]},
        "messages[1].role",
        id="tool-message",
    ),
    pytest.param(
        {"messages": [{"role": "function", "content": "4", "name": "f"}]},
        "messages[0].role",
        id="function-message",
    ),
    pytest.param(
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        "messages[0].tool_calls",
        id="tool-calls",
    ),
    pytest.param(
        {
            "messages": [
                {"role": "assistant", "function_call": {"name": "f", "arguments": ""}}
            ]
        },
        "messages[0].function_call",
        id="function-call-message",
    ),
    pytest.param(
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content[0]",
        id="image",
    ),
]


@pytest.mark.parametrize(("fields", "param"), NEEDS_CHAT)
def test_request_beyond_inference_goes_by_chat(
    fields: dict[str, Any], param: str
) -> None:
    assert "chat" == upstream_of(body(**fields), "auto").route


@pytest.mark.parametrize(("fields", "param"), NEEDS_CHAT)
def test_request_beyond_inference_is_refused_where_only_that_is_set(
    fields: dict[str, Any], param: str
) -> None:
    error = refusal(upstream_of, body(**fields), "inference")

    assert isinstance(error, UnsupportedParameter)
    assert (400, param) == (error.http_status, error.param)


def test_chat_dialect_sends_even_the_plainest_request_by_chat() -> None:
    assert {"model": MODEL, "messages": [USER]} == forwarded()


def test_chat_body_keeps_fields_we_never_heard_of() -> None:
    sent = forwarded(min_p=0.1, chat_template_kwargs={"thinking": False})

    assert (0.1, {"thinking": False}) == (sent["min_p"], sent["chat_template_kwargs"])


def test_chat_body_keeps_numbers_as_they_were_written() -> None:
    raw = b'{"model":"m","messages":[{"role":"user","content":"x"}],"x":1.10e2}'

    assert b'"x":1.10e2' in upstream_of(raw, "chat").body


def test_chat_body_has_the_older_name_of_max_tokens() -> None:
    sent = forwarded(max_completion_tokens=5, max_tokens=9)

    assert (5, False) == (sent["max_tokens"], "max_completion_tokens" in sent)


def test_chat_body_has_system_for_developer() -> None:
    sent = forwarded(
        messages=[
            DEVELOPER,
            {**USER, "cache_control": 1},
            {"role": "function", "content": "4", "name": "f"},
        ]
    )

    assert ["system", "user", "tool"] == [m["role"] for m in sent["messages"]]
    assert 1 == sent["messages"][1]["cache_control"]


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"include_obfuscation": True}]
)
def test_chat_stream_is_always_metered(options: Any) -> None:
    sent = forwarded(stream=True, stream_options=options)

    assert {"include_usage": True} == sent["stream_options"]


@pytest.mark.parametrize("stream", [None, False, True])
def test_stream_is_asked_of_upstream_as_of_us(stream: bool | None) -> None:
    assert bool(stream) == upstream_of(body(stream=stream)).is_stream


@pytest.mark.parametrize(
    ("model", "path"),
    [
        pytest.param("m", "/models/m/inference", id="plain"),
        pytest.param("org/m:v1@2", "/models/org/m:v1@2/inference", id="raw-slash"),
        pytest.param("a b", "/models/a%20b/inference", id="space"),
        pytest.param("a?b#c", "/models/a%3Fb%23c/inference", id="query-and-fragment"),
        pytest.param("a%2Fb", "/models/a%252Fb/inference", id="percent"),
        pytest.param("\u00e9", "/models/%C3%A9/inference", id="not-ascii"),
    ],
)
def test_model_is_one_safe_path(model: str, path: str) -> None:
    check_model_id(model)

    assert path == inference_path(model)
