"""Tool calls in a stream: each opened once, complete, and its arguments in pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.golden import ReadChoice, ReadStream
from tests.unit.test_chat_stream import choice, chunk, new_stream, read


def call(arguments: Any = None, name: Any = None, **members: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    said = {key: value for key, value in function.items() if value is not None}
    return {**members, "function": said}


def calls_of(*deltas: Any) -> ReadChoice:
    """The one choice of a stream whose deltas carry these lists of tool calls."""
    sent = [chunk(choice(tool_calls=calls)) for calls in deltas]
    return read(*sent).choices[0]


OPENING = call("", "f", index=0, id="a", type="function")

MISBEHAVIOURS = [
    pytest.param([[OPENING], [call("{", index=0)], [call("}", index=0)]], id="golden"),
    pytest.param(
        [[OPENING], [call("{", "f", index=0, id="a")], [call("}", "f", id="a")]],
        id="id-and-name-repeated",
    ),
    pytest.param(
        [[call("", "f", id="a")], [call("{", id="a")], [call("}", id="a")]],
        id="no-index",
    ),
    pytest.param([[OPENING], [call("{")], [call("}")]], id="index-only-at-first"),
    pytest.param(
        [[OPENING], [call("{", id="a")], [call("}", id="a")]], id="index-then-id"
    ),
    pytest.param(
        [[call("", "f", id="a")], [call("{", id="a", index=0)], [call("}", index=0)]],
        id="id-then-index",
    ),
    pytest.param([[call("", "f")], [call("{")], [call("}")]], id="neither"),
    pytest.param([[call("{}", "f", index=0)]], id="at-once-without-type"),
    pytest.param([[call({}, "f", index=0)]], id="arguments-as-object"),
    pytest.param([[call(None, "f", index=3)], [call("{}", index=3)]], id="index-3"),
    pytest.param(
        [[call("", "f", index=0, id="")], [call("{}", index=0, id="")]], id="empty-id"
    ),
    pytest.param(
        [[OPENING], [call("", index=0)], [call(5, index=0)], [call("{}", index=0)]],
        id="empty-pieces",
    ),
    pytest.param([[call(None, None, index=0)], [OPENING], [call("{}")]], id="no-name"),
    pytest.param([[OPENING], None, "x", [5], [{}], [call("{}")]], id="garbage"),
    pytest.param(
        [[{"index": 0, "id": "a", "function": {"name": "f"}}], [call("{}", index=0)]],
        id="no-arguments-at-first",
    ),
]


@pytest.mark.parametrize("deltas", MISBEHAVIOURS)
def test_tool_call_is_opened_once_and_keeps_its_arguments(deltas: list[Any]) -> None:
    said = calls_of(*deltas)

    assert [("f", "{}")] == [
        (each["function"]["name"], each["function"]["arguments"]) for each in said.calls
    ]


def test_finish_reason_is_tool_calls_where_upstream_gives_none() -> None:
    assert "tool_calls" == calls_of([call("{}", "f")]).finish_reason


def test_tool_call_without_an_id_gets_one_of_ours() -> None:
    said = calls_of([call("", "f", index=0)], [call("", "g", index=1)])

    assert ["call_0", "call_1"] == [each["id"] for each in said.calls]


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(
            [
                [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "f"}}],
                [{"index": 0, "custom": {"input": "2 +"}}],
                [{"index": 0, "custom": {"input": " 2"}}],
            ],
            id="pieces",
        ),
        pytest.param(
            [[{"id": "a", "custom": {"name": "f", "input": "2 + 2"}}]], id="1"
        ),
    ],
)
def test_custom_tool_call_keeps_its_input(deltas: list[Any]) -> None:
    assert ["2 + 2"] == calls_of(*deltas).arguments


def test_parallel_tool_calls_keep_apart() -> None:
    said = calls_of(
        [call("", "f", index=0, id="a"), call("", "g", index=1, id="b")],
        [call('{"y":', index=1), call('{"x":', index=0)],
        [call("1}", index=0), call("2}", index=1)],
    )

    assert ['{"x":1}', '{"y":2}'] == said.arguments


def test_tool_calls_of_choices_keep_apart() -> None:
    stream = read(
        chunk(choice(1, tool_calls=[OPENING])),
        chunk(choice(0, tool_calls=[call("", "g", index=0, id="b")])),
        chunk(choice(1, tool_calls=[call("{}", index=0)])),
    )

    assert [[""], ["{}"]] == [choice.arguments for choice in stream.choices]


pieces = st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1, max_size=4)))


@given(pieces, st.sampled_from(["index", "id", "both"]), st.booleans())
def test_any_interleaving_keeps_every_argument(
    sent: list[tuple[int, str]], identity: str, repeats_names: bool
) -> None:
    def named(number: int) -> dict[str, Any]:
        both = {"index": number, "id": f"id-{number}"}
        return both if identity == "both" else {identity: both[identity]}

    deltas = [[call("", f"f{n}", **named(n)) for n in range(3)]]
    for number, text in sent:
        name = f"f{number}" if repeats_names else None
        deltas.append([call(text, name, **named(number))])

    expected = ["".join(text for n, text in sent if n == each) for each in range(3)]
    assert expected == calls_of(*deltas).arguments


def test_whole_answer_with_tool_calls_becomes_a_golden_stream() -> None:
    message = {"content": None, "tool_calls": [call('{"x":1}', "f", id="a")]}
    stream = new_stream()

    written = stream.feed_whole(
        json.dumps({"choices": [{"message": message}]}).encode()
    )

    golden = ReadStream(written + stream.finish(is_marked=True), wants_usage=False)
    assert ("tool_calls", ['{"x":1}']) == (
        golden.choices[0].finish_reason,
        golden.choices[0].arguments,
    )


def test_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    said = calls_of(
        [call("", "f", index=0, id="a")],
        [call("{}", index=0)],
        [call("", "g", index=0, id="b")],
        [call("[]", index=0)],
    )

    assert [("a", "{}"), ("b", "[]")] == [
        (each["id"], each["function"]["arguments"]) for each in said.calls
    ]
