"""Chat streams: the golden form, whatever upstream sends and however it misbehaves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.translation.chat_stream import ChatStream
from gateway.translation.port import TokenDemand
from tests.unit.golden import ReadStream
from tests.unit.wire import STAMP, frames

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def new_stream(
    *, wants_usage: bool = False, max_tokens: int | None = None
) -> ChatStream:
    return ChatStream(
        STAMP,
        model="asked",
        demand=TokenDemand(input_tokens=9, text_tokens=5, max_output_tokens=max_tokens),
        wants_usage=wants_usage,
    )


def read(
    *events: Any,
    is_marked: bool = True,
    wants_usage: bool = False,
    max_tokens: int | None = None,
) -> ReadStream:
    """The stream that these upstream events become, checked frame by frame."""
    stream = new_stream(wants_usage=wants_usage, max_tokens=max_tokens)
    written = b"".join(stream.feed(json.dumps(event).encode()) for event in events)
    written += stream.finish(is_marked=is_marked)
    return ReadStream(written, wants_usage=wants_usage)


def chunk(*choices: Any, **members: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": list(choices), **members}


def choice(index: int = 0, finish: Any = None, /, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


FORMS = [
    pytest.param(
        [
            chunk(choice(role="assistant", content="")),
            chunk(choice(content="Hel")),
            chunk(choice(content="lo")),
            chunk(choice(0, "stop")),
        ],
        id="openai",
    ),
    pytest.param([{"text": "Hel"}, {"text": "lo"}], id="text"),
    pytest.param([{"token": "Hel"}, {"token": "lo"}], id="token"),
    pytest.param([{"delta": "Hel"}, {"delta": "lo"}], id="delta"),
    pytest.param([{"content": "Hel"}, {"content": "lo"}], id="content"),
    pytest.param([{"token": {"text": "Hel"}}, {"token": {"text": "lo"}}], id="tgi"),
    pytest.param([{"delta": {"content": "Hel"}}, {"delta": {"text": "lo"}}], id="dict"),
    pytest.param(
        [{"text": "Hello", "finish_reason": "stop"}, {"text": "", "done": True}],
        id="finish-with-text",
    ),
    pytest.param([{"text": "Hello"}, {"done": True}], id="done"),
    pytest.param([{"text": "Hello"}, {"finishReason": "STOP"}], id="camel-case"),
    pytest.param([{"text": "Hello"}, {"tokens": 9, "latency": 2}], id="closing-total"),
    pytest.param([{"event": "ping"}, {}, {"text": "Hello"}], id="pings"),
    pytest.param([chunk({"text": "Hello", "index": 0})], id="legacy-choice"),
    pytest.param([chunk({"message": {"content": "Hello"}})], id="message-choice"),
    pytest.param(
        [chunk(choice(0, "stop", role="assistant", content="Hello"))], id="at-once"
    ),
    pytest.param(
        [
            chunk(),
            chunk(choice(role="assistant")),
            chunk(choice(role="assistant", content="Hel")),
            chunk(choice(role="assistant", content="lo")),
        ],
        id="role-repeated",
    ),
    pytest.param([chunk(choice(content="Hello"))], id="no-role"),
    pytest.param(
        [{"choices": [{"delta": {"content": "Hello"}}]}], id="no-index-and-no-object"
    ),
    pytest.param(
        [{"choices": None}, chunk(choice(content="Hello"))], id="null-choices"
    ),
    pytest.param(
        [chunk(choice(content=None)), chunk(choice(content="Hello"))], id="null-content"
    ),
    pytest.param(
        [
            chunk(choice(0, "stop", content="Hello")),
            chunk(choice(0, "length", content=" again")),
            {"text": "more"},
        ],
        id="content-after-finish",
    ),
    pytest.param(
        [
            chunk(choice(content="Hello"), usage=USAGE),
            chunk(choice(0, "stop")),
            chunk(),
        ],
        id="usage-not-last",
    ),
]


@pytest.mark.parametrize("wants_usage", [False, True], ids=["plain", "usage"])
@pytest.mark.parametrize("events", FORMS)
def test_stream_of_any_form_becomes_golden(
    events: list[Any], wants_usage: bool
) -> None:
    stream = read(*events, wants_usage=wants_usage)

    assert [("Hello", "stop")] == [(c.content, c.finish_reason) for c in stream.choices]


deltas = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["assistant", "", None]),
        "content": st.one_of(st.none(), st.text(max_size=5)),
    },
)
choices = st.fixed_dictionaries(
    {"delta": deltas, "index": st.integers(0, 3)},
    optional={"finish_reason": st.sampled_from([None, None, "stop", "length", "eos"])},
)
events = st.one_of(
    st.fixed_dictionaries(
        {"choices": st.lists(choices, max_size=3)},
        optional={
            "usage": st.sampled_from([None, USAGE]),
            "model": st.text(max_size=3),
        },
    ),
    st.fixed_dictionaries({"text": st.text(max_size=5)}),
    st.sampled_from([{"choices": None}, {}, {"done": True}, {"tokens": 12}]),
)


@given(st.lists(events, max_size=12), st.booleans())
def test_any_events_become_golden_with_all_their_content(
    sent: list[Any], wants_usage: bool
) -> None:
    stream = read(*sent, wants_usage=wants_usage)

    expected = heard(sent)
    assert expected == {
        index: choice.content
        for index, choice in enumerate(stream.choices)
        if choice.content
    }


def heard(sent: list[Any]) -> dict[int, str]:
    """The content of each choice up to its finish reason, by a naive reading."""
    content: dict[int, str] = {}
    finished: set[int] = set()
    for event in sent:
        said = event.get("choices") or [
            {
                "index": 0,
                "delta": {"content": event.get("text")},
                "finish_reason": "stop" if event.get("done") else None,
            }
        ]
        for each in said:
            index = each["index"]
            if index not in finished and each["delta"].get("content"):
                content[index] = content.get(index, "") + each["delta"]["content"]
            if each.get("finish_reason"):
                finished.add(index)
    return content


def test_choices_open_in_index_order_though_upstream_begins_with_another() -> None:
    stream = read(
        chunk(choice(2, "stop", content="c")),
        chunk(choice(0, "stop", content="a")),
    )

    assert ["a", "", "c"] == [choice.content for choice in stream.choices]


@pytest.mark.parametrize("index", [-1, 128, True, "1", None, 1.0])
def test_choice_with_an_impossible_index_stands_where_it_is(index: Any) -> None:
    sent = {"index": index, "delta": {"content": "a"}}

    assert ["a"] == [c.content for c in read(chunk(sent)).choices]


def test_model_is_the_one_upstream_named_first() -> None:
    stream = read(
        chunk(choice(content="a"), model="real"), chunk(model="other"), {"text": "b"}
    )

    assert "real" == stream.model


@pytest.mark.parametrize("model", [None, "", 5])
def test_model_is_the_one_asked_for_if_upstream_names_none(model: Any) -> None:
    assert "asked" == read({"text": "a", "model": model}).model


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        pytest.param([chunk(usage=USAGE)], USAGE, id="openai"),
        pytest.param(
            [{"usage": {"input_tokens": 7, "output_tokens": 3}}], USAGE, id="i/o"
        ),
        pytest.param([{"tokens": {"input": 7, "output": 3}}], USAGE, id="two-counts"),
        pytest.param([{"usage": USAGE}, {"text": "x"}], USAGE, id="not-last"),
        pytest.param(
            [chunk(usage={**USAGE, "completion_tokens": 1}), chunk(usage=USAGE)],
            USAGE,
            id="the-last-one-counts",
        ),
        pytest.param([chunk(usage=USAGE), chunk(usage={})], USAGE, id="then-empty"),
    ],
)
def test_usage_is_what_upstream_reports(
    reported: list[Any], expected: dict[str, int]
) -> None:
    assert expected == read({"text": "a"}, *reported, wants_usage=True).usage


def test_total_at_the_end_is_split_and_sums_up() -> None:
    usage = read({"text": "Hello"}, {"tokens": 42}, wants_usage=True).usage

    assert usage is not None
    assert 42 == usage["total_tokens"]


def test_tokens_beside_text_count_that_piece_and_not_the_answer() -> None:
    usage = read({"text": "Hello", "tokens": 9000}, wants_usage=True).usage

    assert usage is not None
    assert usage["total_tokens"] < 100


def test_usage_is_estimated_where_nothing_is_reported() -> None:
    stream = new_stream()
    stream.feed(b'{"text":"Hello, how are you?"}')

    assert (5, False) == (stream.usage.input_tokens, stream.usage.is_reported)
    assert 0 < stream.usage.output_tokens


def test_tool_calls_and_reasoning_are_estimated_too() -> None:
    stream = new_stream()
    stream.feed(json.dumps(chunk(choice(reasoning_content="hm " * 50))).encode())

    assert 10 < stream.usage.output_tokens


@pytest.mark.parametrize("name", ["refusal", "reasoning_content", "reasoning"])
def test_other_members_of_a_delta_are_passed_on(name: str) -> None:
    stream = new_stream()

    written = frames(stream.feed(json.dumps(chunk(choice(**{name: "No."}))).encode()))

    assert {name: "No."} == written[-1]["choices"][0]["delta"]


def test_logprobs_without_text_are_passed_on() -> None:
    probs: dict[str, Any] = {"content": [], "refusal": None}
    sent = {**choice(), "logprobs": probs}

    written = frames(new_stream().feed(json.dumps(chunk(sent)).encode()))

    assert probs == written[-1]["choices"][0]["logprobs"]


@pytest.mark.parametrize(
    ("upstreams", "ours"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("content_filter", "content_filter"),
        ("tool_use", "tool_calls"),
        ("end_turn", "stop"),
        (5, "stop"),
        (None, "stop"),
        ("", "stop"),
    ],
)
def test_finish_reason_is_a_word_that_clients_know(upstreams: Any, ours: str) -> None:
    stream = read(chunk(choice(0, upstreams, content="a")))

    assert ours == stream.choices[0].finish_reason


def test_finish_reason_is_length_where_the_bound_was_reached() -> None:
    stream = read({"text": "word " * 50}, max_tokens=3)

    assert "length" == stream.choices[0].finish_reason


@pytest.mark.parametrize("is_marked", [True, False])
def test_finished_answer_needs_no_end_marker(is_marked: bool) -> None:
    assert (
        "a"
        == read(chunk(choice(0, "stop", content="a")), is_marked=is_marked)
        .choices[0]
        .content
    )


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([], id="nothing"),
        pytest.param([{"text": "Hel"}], id="half-an-answer"),
        pytest.param(
            [chunk(choice(0, "stop"), choice(1, content="a"))],
            id="half-the-choices",
        ),
    ],
)
def test_end_without_finish_or_marker_is_a_cut(sent: list[Any]) -> None:
    with pytest.raises(UpstreamError, match="before the answer's end"):
        read(*sent, is_marked=False)


def test_empty_but_finished_answer_is_an_answer() -> None:
    assert [("", "stop")] == [(c.content, c.finish_reason) for c in read().choices]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not json", id="text"),
        pytest.param(b'{"text":', id="half-an-event"),
        pytest.param(b"[1]", id="array"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"text":"\xff"}', id="no-utf8"),
        pytest.param(b'{"text":"\\ud800"}', id="lone-surrogate"),
        pytest.param(b"[" * 5000, id="deep"),
        pytest.param(b'{"choices":{}}', id="choices-as-object"),
        pytest.param(b'{"choices":"x"}', id="choices-as-text"),
        pytest.param(b'{"choices":[null]}', id="choice-as-null"),
        pytest.param(b'{"choices":[5]}', id="choice-as-number"),
        pytest.param(b'{"error":{"message":"Boom"}}', id="error-object"),
        pytest.param(b'{"error":"boom","message":"Boom"}', id="error-of-docs"),
        pytest.param(b'{"choices":[],"error":{"message":"x"}}', id="error-in-a-chunk"),
    ],
)
def test_garbage_or_an_error_is_an_upstream_error(data: bytes) -> None:
    stream = new_stream()
    stream.feed(b'{"text":"Hello"}')

    with pytest.raises(UpstreamError):
        stream.feed(data)


@pytest.mark.parametrize("error", [None, "", {}, False])
def test_empty_error_member_is_no_error(error: Any) -> None:
    assert "a" == read({"text": "a", "error": error}).choices[0].content


@pytest.mark.parametrize(
    ("whole", "contents"),
    [
        pytest.param({"text": "Hello", "tokens": 12}, ["Hello"], id="generation-1"),
        pytest.param(
            {"text": "Hello", "tokens": {"input": 3, "output": 9}}, ["Hello"], id="2"
        ),
        pytest.param(
            {
                "usage": {"total_tokens": 12},
                "choices": [
                    {"index": 1, "message": {"content": "b"}},
                    {"index": 0, "message": {"content": "a"}, "finish_reason": "stop"},
                ],
            },
            ["a", "b"],
            id="openai",
        ),
        pytest.param({"choices": [{"message": {"content": None}}]}, [""], id="null"),
    ],
)
def test_whole_answer_becomes_a_golden_stream(
    whole: dict[str, Any], contents: list[str]
) -> None:
    stream = new_stream(wants_usage=True)
    body = json.dumps({"model": "real", **whole}).encode()

    written = stream.feed_whole(body) + stream.finish(is_marked=True)

    golden = ReadStream(written, wants_usage=True)
    assert ("real", contents) == (golden.model, [c.content for c in golden.choices])
