"""
The short way of events that only add text: whatever takes it means what it says.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.translation.events import Event, Piece, plain_text_of, read_event
from gateway.translation.native import NativeTranslator
from gateway.translation.text import TextTranslator
from tests.unit.wire import MODEL, STAMP, body, chat

SAID: list[Any] = [None, False, True, 0, 1, 0.0, "", "x", "stop", [], {}, {"a": 1}]
odd = st.sampled_from(SAID)
texts = st.sampled_from(["word ", "é", '"', "", None, {"text": "x"}, 5])


def with_some(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=members)


counts = st.sampled_from([{}, {"prompt_tokens": 1, "completion_tokens": 2}, None, 5])
small = with_some(
    text=texts,
    token=texts,
    delta=texts,
    content=texts,
    finish_reason=odd,
    finishReason=odd,
    stop_reason=odd,
    done=odd,
    usage=counts,
    tokens=counts,
    model=odd,
    other=odd,
)
deltas = st.fixed_dictionaries(
    {"content": st.just("word ") | texts},
    optional={"role": odd, "refusal": odd, "tool_calls": odd, "reasoning_content": odd},
)
choices: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "index": st.sampled_from([0, 1, True, None]),
        "delta": st.just({"content": "word "}) | deltas,
    },
    optional={
        "finish_reason": st.sampled_from([None, "stop", "", 0]),
        "logprobs": st.sampled_from([None, {"content": []}]),
        "message": deltas,
        "text": texts,
    },
)
chunks = st.fixed_dictionaries(
    {"choices": choices.map(lambda choice: [choice]) | st.lists(choices | odd)},
    optional={"usage": counts, "tokens": counts, "model": odd},
)


@given(small)
def test_small_event_that_is_told_by_its_text_says_nothing_else(
    said: dict[str, Any],
) -> None:
    says_nothing_else(said)


@given(chunks)
def test_chunk_that_is_told_by_its_text_says_nothing_else(said: dict[str, Any]) -> None:
    says_nothing_else(said)


def says_nothing_else(said: dict[str, Any]) -> None:
    text = plain_text_of(said)
    if text is not None:
        event = read_event(said)
        assert Event([Piece(text=text)], None, event.model) == event


@pytest.mark.parametrize(
    "said",
    [
        {"token": "word "},
        {"text": "word ", "finish_reason": None, "done": False},
        {"delta": "word ", "index": 7, "id": "x"},
        {"choices": [{"index": 0, "delta": {"content": "word "}}]},
        {
            "id": "x",
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "delta": {"role": "assistant", "content": "word ", "refusal": None},
                    "logprobs": None,
                    "finish_reason": None,
                }
            ],
            "usage": None,
        },
    ],
)
def test_common_events_are_told_by_their_text(said: dict[str, Any]) -> None:
    assert "word " == plain_text_of(said)


EVENTS = [b'{"token":"Hi "}', b'{"token":"\\u00e9\\"\\n\\u2028"}']
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.mark.parametrize("fields", [{"stream": True}, USAGE], ids=["plain", "usage"])
def test_text_in_a_chat_stream_is_one_chunk_of_the_form(fields: dict[str, Any]) -> None:
    stream = chat(body(**fields)).stream(STAMP)
    stream.feed(EVENTS[0])

    written = stream.feed(EVENTS[1])

    chunk = {
        "id": STAMP.answer_id,
        "object": "chat.completion.chunk",
        "created": STAMP.created_s,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "delta": {"content": 'é"\n\u2028'},
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        **({"usage": None} if "stream_options" in fields else {}),
    }
    assert frame_of(chunk) == written


@pytest.mark.parametrize("fields", [{"stream": True}, USAGE], ids=["plain", "usage"])
def test_text_in_a_text_stream_is_one_chunk_of_the_form(fields: dict[str, Any]) -> None:
    raw = json.dumps({"model": MODEL, "prompt": "Say", "echo": True, **fields}).encode()
    stream = TextTranslator(raw, dialect="auto", prompt_form="both").stream(STAMP)
    stream.feed(EVENTS[0])

    written = stream.feed(EVENTS[1])

    chunk = {
        "id": STAMP.answer_id,
        "object": "text_completion",
        "created": STAMP.created_s,
        "model": MODEL,
        "choices": [
            {
                "index": 0,
                "text": 'é"\n\u2028',
                "logprobs": None,
                "finish_reason": None,
            }
        ],
        **({"usage": None} if "stream_options" in fields else {}),
    }
    assert frame_of(chunk) == written


def frame_of(chunk: dict[str, Any]) -> bytes:
    written = json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + written.encode() + b"\n\n"


def test_text_after_the_end_is_neither_sent_nor_charged() -> None:
    stream = chat(body(stream=True)).stream(STAMP)
    stream.feed(b'{"token":"Hello","finish_reason":"stop"}')
    usage = stream.usage

    assert (b"", usage) == (stream.feed(EVENTS[0]), stream.usage)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"error":"x","token":"y"}'])
def test_event_that_is_none_is_an_error_in_the_middle_of_a_stream(data: bytes) -> None:
    native = NativeTranslator(b'{"prompt":"Say"}', model=MODEL)
    for stream in (chat(body(stream=True)).stream(STAMP), native.stream(STAMP)):
        stream.feed(EVENTS[0])

        with pytest.raises(UpstreamError):
            stream.feed(data)
