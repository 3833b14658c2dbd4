"""Whole answers: three generations and the chat shape become one strict completion."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.translation.answer import to_chat_completion, to_finish_reason
from gateway.translation.port import WholeAnswer
from gateway.translation.usage import MAX_REPORTED
from tests.unit.wire import STAMP, body, chat

TEXT = "A good answer."
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}
SPLIT = {"prompt_tokens": 30, "completion_tokens": 10, "total_tokens": 40}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CUSTOM_CALL = {"id": "c", "type": "custom", "custom": {"name": "f", "input": "x"}}


def translated(
    answer: Any, *, input_estimate: int = 30, max_tokens: int | None = None
) -> WholeAnswer:
    return to_chat_completion(
        answer if isinstance(answer, bytes) else json.dumps(answer).encode(),
        STAMP,
        model="asked",
        input_estimate=input_estimate,
        max_tokens=max_tokens,
    )


def completion(answer: Any, **options: Any) -> Any:
    return json.loads(translated(answer, **options).body)


def answered(**message: Any) -> dict[str, Any]:
    """An answer of the newest generation with one message."""
    message = {"role": "assistant", "content": TEXT, **message}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def check_strictly(said: Any) -> None:
    """Every member that OpenAI's SDK requires when it validates, with its type."""
    assert (STAMP.answer_id, "chat.completion", STAMP.created_s) == (
        said["id"],
        said["object"],
        said["created"],
    )
    assert isinstance(said["model"], str)
    assert said["choices"]
    for choice in said["choices"]:
        assert {"index", "message", "logprobs", "finish_reason"} == choice.keys()
        assert type(choice["index"]) is int
        assert choice["finish_reason"] in FINISH_REASONS
        message = choice["message"]
        assert "assistant" == message["role"]
        assert message["content"] is None or isinstance(message["content"], str)
        assert "refusal" in message
        for call in message.get("tool_calls", ()):
            assert isinstance(call["id"], str)
            assert "function" == call["type"]
            assert isinstance(call["function"]["name"], str)
            assert isinstance(call["function"]["arguments"], str)
    usage = said["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


GENERATIONS = [
    pytest.param({"text": TEXT, "tokens": 40, "model": "m", "latency": 3}, id="total"),
    pytest.param({"text": TEXT, "tokens": {"input": 30, "output": 10}}, id="counts"),
    pytest.param({"text": TEXT, "usage": {"totalTokens": 40}}, id="usage-total"),
    pytest.param({"text": TEXT, "usage": 40}, id="usage-number"),
    pytest.param({**answered(), "usage": SPLIT, "model": "m"}, id="openai"),
    pytest.param({"choices": [{"text": TEXT}], "usage": SPLIT}, id="choice-of-text"),
]


@pytest.mark.parametrize("answer", GENERATIONS)
def test_answer_of_any_generation_is_a_strict_completion(answer: Any) -> None:
    said = completion(answer)

    check_strictly(said)
    assert (TEXT, 40) == (
        said["choices"][0]["message"]["content"],
        said["usage"]["total_tokens"],
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"usage": SPLIT}, (30, 10, True), id="openai"),
        pytest.param({"tokens": {"input": 3, "output": 1}}, (3, 1, True), id="i/o"),
        pytest.param(
            {"tokens": {"inputTokens": 3, "outputTokens": 1}}, (3, 1, True), id="camel"
        ),
        pytest.param(
            {"tokens": {"prompt": 3, "completion": 1}}, (3, 1, True), id="words"
        ),
        pytest.param(
            {"tokens": {"input": 3, "total": 10}}, (3, 7, True), id="input-and-total"
        ),
        pytest.param(
            {"tokens": {"output": 3, "total": 10}}, (7, 3, True), id="output-and-total"
        ),
        pytest.param(
            {"tokens": {"input": 9, "total": 4}}, (9, 0, True), id="input-beyond-total"
        ),
        pytest.param({"tokens": 0}, (0, 0, False), id="zero"),
        pytest.param(
            {"usage": {}, "tokens": {"input": 3, "output": 1}},
            (3, 1, True),
            id="empty-usage-then-tokens",
        ),
        pytest.param(
            {"usage": {"prompt_tokens": 0, "completion_tokens": 0}},
            (0, 0, True),
            id="zeros-are-counts",
        ),
    ],
)
def test_usage_is_read_from_whatever_is_said(
    members: dict[str, Any], expected: tuple[int, int, bool]
) -> None:
    usage = translated({"text": TEXT, **members}).usage

    assert expected == (usage.input_tokens, usage.output_tokens, usage.is_reported)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"tokens": None},
        {"tokens": -1},
        {"tokens": "40"},
        {"tokens": True},
        {"tokens": 1.5},
        {"tokens": MAX_REPORTED},
        {"tokens": 10**400},
        {"tokens": {}},
        {"tokens": {"input": 5}},
        {"usage": {"total_tokens": -5}},
        {"usage": []},
        {"usage": {"prompt_tokens": "x", "completion_tokens": None}},
    ],
    ids=lambda members: json.dumps(members)[:40],
)
def test_usage_is_estimated_where_what_is_said_is_no_count(members: Any) -> None:
    usage = translated({"text": TEXT, **members}).usage

    assert (30, False) == (usage.input_tokens, usage.is_reported)
    assert 0 < usage.output_tokens < 30


@given(st.integers(0, MAX_REPORTED - 1), st.integers(0, 10_000), st.text())
def test_total_is_split_in_parts_that_sum_to_it(
    total: int, input_estimate: int, text: str
) -> None:
    usage = translated(
        {"text": text, "tokens": total}, input_estimate=input_estimate
    ).usage

    assert total == usage.input_tokens + usage.output_tokens
    assert 0 <= usage.input_tokens <= total


def test_breakdowns_of_usage_are_kept() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 5}}

    said = completion({**answered(), "usage": {**SPLIT, **details}})

    assert {**SPLIT, **details} == said["usage"]


@pytest.mark.parametrize(
    ("answer", "max_tokens", "expected"),
    [
        pytest.param({"text": TEXT}, None, "stop", id="nothing-said"),
        pytest.param(
            {"text": TEXT, "tokens": {"input": 1, "output": 9}},
            9,
            "length",
            id="bound-reached",
        ),
        pytest.param(
            {"text": TEXT, "tokens": {"input": 1, "output": 8}}, 9, "stop", id="below"
        ),
        pytest.param(
            {"text": TEXT, "finish_reason": "length"}, None, "length", id="said"
        ),
        pytest.param(
            {"text": TEXT, "finishReason": "MAX_TOKENS"}, None, "length", id="camel"
        ),
        pytest.param(
            {"choices": [{"message": {"content": None, "tool_calls": [CALL]}}]},
            None,
            "tool_calls",
            id="tool-calls",
        ),
    ],
)
def test_finish_reason_is_said_or_follows_from_the_answer(
    answer: Any, max_tokens: int | None, expected: str
) -> None:
    said = completion(answer, max_tokens=max_tokens)

    assert expected == said["choices"][0]["finish_reason"]


@given(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text())))
def test_finish_reason_is_none_or_a_known_word(value: Any) -> None:
    reason = to_finish_reason(value)

    assert reason is None or reason in FINISH_REASONS


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        pytest.param([CALL], [CALL], id="complete"),
        pytest.param(
            [{"function": {"name": "f", "arguments": "{}"}}],
            [{**CALL, "id": "call_0"}],
            id="no-id",
        ),
        pytest.param(
            [{"id": "c", "function": {"name": "f", "arguments": {}}}],
            [CALL],
            id="arguments-as-object",
        ),
        pytest.param(
            [{"id": "c", "function": {"name": "f"}}], [CALL], id="no-arguments"
        ),
        pytest.param([CUSTOM_CALL], [CUSTOM_CALL], id="custom"),
        pytest.param([{"id": "c"}, 5, {"function": {}}], None, id="garbage"),
        pytest.param([], None, id="empty"),
        pytest.param(None, None, id="null"),
        pytest.param("x", None, id="text"),
    ],
)
def test_tool_calls_are_complete_or_left_out(calls: Any, expected: Any) -> None:
    message = completion(answered(tool_calls=calls))["choices"][0]["message"]

    assert expected == message.get("tool_calls")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("refusal", "No."),
        ("reasoning_content", "hm"),
        ("annotations", []),
        ("function_call", {"name": "f", "arguments": "{}"}),
    ],
)
def test_other_members_of_a_message_are_passed_on(name: str, value: Any) -> None:
    message = completion(answered(**{name: value}))["choices"][0]["message"]

    assert value == message[name]


def test_role_is_always_the_assistants() -> None:
    said = completion(answered(role="model"))

    assert "assistant" == said["choices"][0]["message"]["role"]


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"content": []}, {"content": []}),
        (None, None),
        ([], None),
        ("x", None),
    ],
)
def test_logprobs_are_an_object_or_null(logprobs: Any, expected: Any) -> None:
    answer = answered()
    answer["choices"][0]["logprobs"] = logprobs

    assert expected == completion(answer)["choices"][0]["logprobs"]


@pytest.mark.parametrize(
    ("members", "carried"),
    [
        ({"system_fingerprint": "fp"}, {"system_fingerprint": "fp"}),
        ({"service_tier": "flex"}, {"service_tier": "flex"}),
        ({"metadata": {"a": 1}}, {"metadata": {"a": 1}}),
        ({"system_fingerprint": 5, "service_tier": None, "metadata": "x"}, {}),
        ({"latency": 5, "success": True}, {}),
    ],
)
def test_top_level_members_are_passed_on_where_openai_has_them(
    members: dict[str, Any], carried: dict[str, Any]
) -> None:
    plain = completion({"text": TEXT})

    assert carried == {
        name: value
        for name, value in completion({"text": TEXT, **members}).items()
        if name not in plain
    }


@pytest.mark.parametrize(
    ("model", "expected"),
    [("m", "m"), ("", "asked"), (None, "asked"), (5, "asked")],
)
def test_model_is_upstreams_or_the_one_asked_for(model: Any, expected: str) -> None:
    assert expected == completion({"text": TEXT, "model": model})["model"]


def test_choices_are_in_the_order_of_their_index() -> None:
    indexes = [2, None, True, -1, 0]
    choices = [{"index": i, "message": {"content": f"{i}"}} for i in indexes]

    said = completion({"choices": choices})

    assert [0, 1, 2, 2, 3] == [choice["index"] for choice in said["choices"]]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>", id="html"),
        pytest.param(b'{"text":"x"', id="cut"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"x"', id="string"),
        pytest.param(b"{}", id="no-members"),
        pytest.param(b'{"text":5}', id="text-as-number"),
        pytest.param(b'{"choices":[]}', id="no-choices"),
        pytest.param(b'{"choices":{}}', id="choices-as-object"),
        pytest.param(b'{"choices":[5]}', id="choice-as-number"),
        pytest.param(b'{"choices":[{"message":{"content":5}}]}', id="content-number"),
        pytest.param(b'{"choices":[{"message":{"content":[]}}]}', id="content-parts"),
        pytest.param(b'{"text":"\xff"}', id="no-utf8"),
        pytest.param(b'{"text":"\\ud800"}', id="lone-surrogate"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"text":"x","x":NaN}', id="nan"),
        pytest.param(b'{"error":{"message":"Boom"}}', id="error-object"),
        pytest.param(b'{"error":"boom","text":"x"}', id="error-beside-text"),
    ],
)
def test_answer_that_is_none_is_an_upstream_error(answer: bytes) -> None:
    with pytest.raises(UpstreamError):
        translated(answer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["message", "content", "index", "x"]), inner)
    ),
    max_leaves=8,
)
members = st.sampled_from(["text", "choices", "tokens", "usage", "model", "error"])


@given(st.dictionaries(members, json_values), st.text())
def test_any_answer_is_a_strict_completion_or_an_upstream_error(
    answer: dict[str, Any], text: str
) -> None:
    raw = json.dumps({"text": text, **answer}).encode()
    try:
        said = completion(raw)
    except UpstreamError:
        return
    check_strictly(said)


def test_chat_translator_knows_its_request() -> None:
    translator = chat(body(stream=True, max_tokens=9, stream_options={}))

    whole = translator.from_upstream(b'{"text":"x","tokens":9}', STAMP)
    stream = translator.stream(STAMP)

    assert translator.is_stream
    assert translator.model == json.loads(whole.body)["model"]
    assert translator.demand.text_tokens == stream.usage.input_tokens
