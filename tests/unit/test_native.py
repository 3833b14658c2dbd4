"""LLMTune's own calls: passed through untouched, and metered on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.errors import InvalidRequest, UpstreamError
from gateway.sse import EventDecoder
from gateway.translation.native import NativeTranslator
from tests.unit.wire import STAMP, refusal

MODEL = "org/m"


def native(model: str | None = MODEL, **fields: Any) -> NativeTranslator:
    raw = json.dumps({"prompt": "Hi", **fields}).encode()
    return NativeTranslator(raw, model=model)


def read_back(written: bytes) -> list[bytes]:
    decoder = EventDecoder(max_event_bytes=2**20)
    return [event.data for event in (*decoder.feed(written), *decoder.finish())]


@pytest.mark.parametrize(
    ("model", "fields", "route", "path"),
    [
        (MODEL, {}, "inference", "/models/org/m/inference"),
        (None, {"modelId": MODEL}, "playground", "/playground/inference"),
    ],
    ids=["inference", "playground"],
)
def test_body_is_passed_on_byte_by_byte(
    model: str | None, fields: dict[str, Any], route: str, path: str
) -> None:
    raw = json.dumps({"prompt": " Hi ", "x": 1.50, **fields}, indent=3).encode()

    request = NativeTranslator(raw, model=model).to_upstream()

    assert (route, path, raw, False) == (
        request.route,
        request.path,
        request.body,
        request.is_stream,
    )


@pytest.mark.parametrize(
    ("model", "fields", "param"),
    [
        pytest.param(None, {}, "modelId", id="playground-without-model"),
        pytest.param(None, {"modelId": ""}, "modelId", id="empty-model"),
        pytest.param(None, {"modelId": 5}, "modelId", id="model-as-number"),
        pytest.param(None, {"modelId": "../x"}, "modelId", id="model-as-path"),
        pytest.param("a/../b", {}, "modelId", id="path-as-path"),
        pytest.param(MODEL, {"prompt": None}, "prompt", id="no-prompt"),
        pytest.param(MODEL, {"prompt": ""}, "prompt", id="empty-prompt"),
        pytest.param(MODEL, {"prompt": 5}, "prompt", id="prompt-as-number"),
        pytest.param(MODEL, {"messages": "x"}, "messages", id="messages-as-text"),
        pytest.param(MODEL, {"maxTokens": 0}, "maxTokens", id="zero"),
        pytest.param(MODEL, {"maxTokens": -5}, "maxTokens", id="negative"),
        pytest.param(MODEL, {"max_tokens": 2**31}, "maxTokens", id="huge"),
        pytest.param(MODEL, {"maxTokens": 10**40}, "maxTokens", id="absurd"),
        pytest.param(MODEL, {"stream": "true"}, "stream", id="stream"),
    ],
)
def test_wrong_value_is_refused_by_its_name(
    model: str | None, fields: dict[str, Any], param: str
) -> None:
    error = refusal(native, model, **fields)

    assert isinstance(error, InvalidRequest)
    assert param == error.param


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"maxTokens": 5}, 5),
        ({"max_tokens": 6}, 6),
        ({"maxTokens": 5, "max_tokens": 6}, 6),
    ],
)
def test_demand_has_the_bound_in_either_spelling(
    fields: dict[str, Any], expected: int | None
) -> None:
    assert expected == native(**fields).demand.max_output_tokens


def test_demand_counts_messages_as_it_counts_prompts() -> None:
    messages = [{"role": "user", "content": "Hello " * 50}]

    demand = native(prompt=None, messages=messages).demand

    assert native().demand.input_tokens < demand.input_tokens


def test_answer_is_passed_on_byte_by_byte_and_metered() -> None:
    raw = b'{ "text": "hi",  "tokens": {"input": 3, "output": 4} }'

    whole = native().from_upstream(raw, STAMP)

    assert (raw, 3, 4) == (
        whole.body,
        whole.usage.input_tokens,
        whole.usage.output_tokens,
    )


@pytest.mark.parametrize("raw", [b"", b"<html>", b"{}", b'{"error":"x"}'])
def test_answer_that_is_none_is_an_upstream_error(raw: bytes) -> None:
    with pytest.raises(UpstreamError):
        native().from_upstream(raw, STAMP)


def test_events_are_passed_on_as_they_came() -> None:
    stream = native(stream=True).stream(STAMP)
    events = [b'{"token":  "h"}', b'{"token":\n"i"}', b'{"done":true}']

    written = b"".join(map(stream.feed, events)) + stream.finish(is_marked=False)

    assert [*events, b"[DONE]"] == read_back(written)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_whole_answer_becomes_one_event_however_it_is_laid_out(newline: bytes) -> None:
    stream = native(stream=True).stream(STAMP)
    raw = newline.join([b"", b"{", b'"text": "hi",', b'"tokens": 9', b"}", b""])

    written = stream.feed_whole(raw) + stream.finish(is_marked=True)

    event, done = read_back(written)
    assert ({"text": "hi", "tokens": 9}, b"[DONE]") == (json.loads(event), done)
    assert 9 == stream.usage.total_tokens


def test_stream_usage_is_reported_or_estimated() -> None:
    stream = native(stream=True).stream(STAMP)
    stream.feed(b'{"token":"Hello there."}')
    estimated = stream.usage

    stream.feed(b'{"tokens":{"input":3,"output":4}}')

    assert (False, True) == (estimated.is_reported, stream.usage.is_reported)
    assert (7, True) == (stream.usage.total_tokens, estimated.output_tokens > 0)


def test_stream_that_is_cut_is_an_upstream_error() -> None:
    stream = native(stream=True).stream(STAMP)
    stream.feed(b'{"token":"h"}')

    with pytest.raises(UpstreamError):
        stream.finish(is_marked=False)


@pytest.mark.parametrize("data", [b"garbage", b'{"error":"x"}', b"5"])
def test_event_that_is_none_is_an_upstream_error(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        native(stream=True).stream(STAMP).feed(data)
