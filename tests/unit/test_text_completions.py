"""The legacy route: one text in, one text out, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import InvalidRequest, UnsupportedParameter, UpstreamError
from gateway.settings import Dialect, PromptForm
from gateway.translation.text import DEFAULT_MAX_TOKENS, TextTranslator
from tests.unit.wire import MODEL, STAMP, frames, refusal


def text(
    dialect: Dialect = "auto", form: PromptForm = "both", **fields: Any
) -> TextTranslator:
    raw = json.dumps({"model": MODEL, "prompt": "Say hi", **fields}).encode()
    return TextTranslator(raw, dialect=dialect, prompt_form=form)


def sent(dialect: Dialect = "auto", form: PromptForm = "both", **fields: Any) -> Any:
    return json.loads(text(dialect, form, **fields).to_upstream().body)


def streamed(*events: Any, is_marked: bool = True, **fields: Any) -> list[Any]:
    stream = text(stream=True, **fields).stream(STAMP)
    written = b"".join(stream.feed(json.dumps(event).encode()) for event in events)
    return frames(written + stream.finish(is_marked=is_marked))


def choices_of(chunks: list[Any]) -> list[dict[str, Any]]:
    return [choice for chunk in chunks[:-1] for choice in chunk["choices"]]


@pytest.mark.parametrize("prompt", ["Say hi", ["Say hi"], ""])
def test_one_text_is_a_prompt(prompt: Any) -> None:
    assert (prompt if isinstance(prompt, str) else prompt[0]) == sent(prompt=prompt)[
        "prompt"
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        pytest.param({"prompt": ["a", "b"]}, "prompt", id="two-prompts"),
        pytest.param({"prompt": [1, 2]}, "prompt", id="token-ids"),
        pytest.param({"prompt": [[1, 2]]}, "prompt", id="lists-of-token-ids"),
        pytest.param({"prompt": []}, "prompt", id="no-prompts"),
        pytest.param({"prompt": 5}, "prompt", id="number"),
        pytest.param({"prompt": None}, "prompt", id="null"),
        pytest.param({"logprobs": 3}, "logprobs", id="logprobs"),
        pytest.param({"logprobs": 6}, "logprobs", id="logprobs-beyond-range"),
        pytest.param({"best_of": 2}, "best_of", id="best_of"),
        pytest.param({"suffix": "x"}, "suffix", id="suffix"),
        pytest.param({"max_tokens": 0}, "max_tokens", id="no-tokens"),
        pytest.param({"model": "../x"}, "model", id="model"),
        pytest.param({"echo": "yes"}, "echo", id="echo"),
        pytest.param({"n": 0}, "n", id="n"),
    ],
)
def test_what_llmtune_has_no_word_for_is_refused(
    fields: dict[str, Any], param: str
) -> None:
    error = refusal(text, **fields)

    assert isinstance(error, InvalidRequest)
    assert param == error.param


@pytest.mark.parametrize(
    "fields", [{"logprobs": 0}, {"best_of": 1}, {"best_of": 0}, {"suffix": ""}]
)
def test_parameter_that_asks_for_nothing_passes(fields: dict[str, Any]) -> None:
    assert "inference" == text(**fields).to_upstream().route


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "both",
            {
                "prompt": "Say hi",
                "messages": [{"role": "user", "content": "Say hi"}],
                "maxTokens": 16,
                "max_tokens": 16,
            },
        ),
        ("prompt", {"prompt": "Say hi", "maxTokens": 16}),
        (
            "messages",
            {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 16},
        ),
    ],
)
def test_inference_body_has_the_forms_that_are_set(
    form: PromptForm, expected: dict[str, Any]
) -> None:
    assert expected == sent("inference", form)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": "x"}, "stop"),
        ({"seed": 0}, "seed"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
    ],
)
def test_parameter_beyond_inference_is_carried_by_chat_or_refused(
    fields: dict[str, Any], param: str
) -> None:
    refused = refusal(text("inference", **fields).to_upstream)

    assert isinstance(refused, UnsupportedParameter)
    assert param == refused.param
    assert fields[param] == sent("auto", **fields)[param]


def test_chat_body_has_the_prompt_as_one_message() -> None:
    assert {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Say hi"}],
        "max_tokens": 5,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
    } == sent(stop=["x"], max_tokens=5, stream=True)


@pytest.mark.parametrize(("asked", "expected"), [(None, DEFAULT_MAX_TOKENS), (99, 99)])
def test_demand_has_openais_default_of_tokens(asked: int | None, expected: int) -> None:
    demand = text(max_tokens=asked, n=3).demand

    assert (expected, 3) == (demand.max_output_tokens, demand.choices)


@pytest.mark.parametrize(
    ("answer", "texts"),
    [
        ({"text": "hi", "tokens": 9}, ["hi"]),
        ({"choices": [{"message": {"content": "hi"}}]}, ["hi"]),
        (
            {"choices": [{"text": "b", "index": 1}, {"text": "a", "index": 0}]},
            ["a", "b"],
        ),
        ({"choices": [{"message": {"content": None}}]}, [""]),
    ],
)
def test_answer_is_a_text_completion(answer: Any, texts: list[str]) -> None:
    whole = text().from_upstream(json.dumps(answer).encode(), STAMP)

    said = json.loads(whole.body)
    assert ("text_completion", MODEL) == (said["object"], said["model"])
    assert texts == [choice["text"] for choice in said["choices"]]
    assert whole.usage.to_openai() == said["usage"]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reason_is_one_of_this_routes(reason: Any, expected: str) -> None:
    answer = {"text": "hi", "finish_reason": reason}

    said = json.loads(text().from_upstream(json.dumps(answer).encode(), STAMP).body)

    assert {
        "index": 0,
        "text": "hi",
        "logprobs": None,
        "finish_reason": expected,
    } == said["choices"][0]


def test_echo_puts_the_prompt_before_the_answer() -> None:
    whole = text(echo=True, prompt="Say: ").from_upstream(b'{"text":"hi"}', STAMP)

    assert "Say: hi" == json.loads(whole.body)["choices"][0]["text"]


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([{"text": "h"}, {"text": "i"}], id="text"),
        pytest.param(
            [
                {"choices": [{"index": 0, "delta": {"role": "assistant"}}]},
                {"choices": [{"index": 0, "delta": {"content": "h"}}]},
                {"choices": [{"index": 0, "text": "i"}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [{"index": 0, "delta": {"content": "more"}}]},
            ],
            id="openai",
        ),
    ],
)
@pytest.mark.parametrize("echo", [False, True])
def test_stream_has_the_text_and_one_finish_reason(
    events: list[Any], echo: bool
) -> None:
    chunks = streamed(*events, echo=echo, prompt="Say: ")

    said = choices_of(chunks)
    assert ("Say: hi" if echo else "hi") == "".join(choice["text"] for choice in said)
    assert ["stop"] == [c["finish_reason"] for c in said if c["finish_reason"]]
    assert ("[DONE]", "stop") == (chunks[-1], said[-1]["finish_reason"])


@pytest.mark.parametrize(("echo", "expected"), [(False, ""), (True, "Say: ")])
def test_empty_stream_is_an_empty_text(echo: bool, expected: str) -> None:
    said = choices_of(streamed(echo=echo, prompt="Say: "))

    assert [(expected, "stop")] == [(c["text"], c["finish_reason"]) for c in said]


def test_stream_that_reaches_its_bound_ends_for_length() -> None:
    chunks = streamed({"text": "word " * 20}, max_tokens=4)

    assert "length" == choices_of(chunks)[-1]["finish_reason"]


def test_stream_has_usage_last_and_null_before_if_asked() -> None:
    *chunks, last, done = streamed(
        {"text": "hi"}, {"tokens": 9}, stream_options={"include_usage": True}
    )

    assert ([], 9, "[DONE]") == (last["choices"], last["usage"]["total_tokens"], done)
    assert all(chunk["usage"] is None for chunk in chunks)


def test_stream_has_no_usage_unless_asked() -> None:
    assert not any("usage" in chunk for chunk in streamed({"text": "hi"})[:-1])


def test_stream_that_is_cut_is_an_upstream_error() -> None:
    with pytest.raises(UpstreamError):
        streamed({"text": "h"}, is_marked=False)


def test_stream_that_is_finished_needs_no_marker() -> None:
    assert "[DONE]" == streamed({"text": "h", "done": True}, is_marked=False)[-1]


def test_stream_counts_what_it_delivered() -> None:
    stream = text(stream=True).stream(STAMP)
    stream.feed(b'{"text":"Hello, how are you?"}')

    assert 0 < stream.usage.output_tokens
    assert not stream.usage.is_reported


def test_whole_answer_becomes_a_stream() -> None:
    stream = text(stream=True, echo=True, prompt="Say: ").stream(STAMP)

    written = stream.feed_whole(b'{"text":"hi","tokens":9}')
    chunks = frames(written + stream.finish(is_marked=True))

    assert [("Say: hi", "stop")] == [
        (c["text"], c["finish_reason"]) for c in choices_of(chunks)
    ]
    assert 9 == stream.usage.total_tokens
    assert {STAMP.answer_id} == {chunk["id"] for chunk in chunks[:-1]}
