"""Bodies that are no good JSON object: refused clearly, whatever they hold."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest, envelope
from tests.unit.wire import MODEL, body, chat, refusal

MESSAGES = b'"messages":[{"role":"user","content":"Hi"}]'


def with_member(member: bytes) -> bytes:
    return b'{"model":"m",' + MESSAGES + b"," + member + b"}"


def nested(depth: int, where: str = "x") -> bytes:
    inner = b'{"a":' * depth + b"1" + b"}" * depth
    if where == "tool parameters":
        return with_member(
            b'"tools":[{"type":"function","function":{"name":"f","parameters":%b}}]'
            % inner
        )
    return with_member(b'"x":' + inner)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"", "The body is empty; a JSON object is needed.", id="empty"),
        pytest.param(
            b" \n ", "The body is empty; a JSON object is needed.", id="blank"
        ),
        pytest.param(b"{", "The body is not valid JSON: ", id="half"),
        pytest.param(b"null", "Invalid body: Expected `object`", id="null"),
        pytest.param(b"[]", "Invalid body: Expected `object`", id="array"),
        pytest.param(b"5", "Invalid body: Expected `object`", id="number"),
        pytest.param(b"model=m", "The body is not valid JSON: ", id="form"),
        pytest.param(b"\x00", "The body is not valid JSON: ", id="nul"),
        pytest.param(b"{} {}", "", id="two-values"),
        pytest.param(
            b"\xef\xbb\xbf" + body(), "The body is not valid JSON: ", id="bom"
        ),
        pytest.param(
            body().decode().encode("utf-16"), "The body is not valid JSON: ", id="utf16"
        ),
        pytest.param(
            with_member(b'"temperature":NaN'), "The body is not valid JSON: ", id="nan"
        ),
        pytest.param(
            with_member(b'"x":Infinity'), "The body is not valid JSON: ", id="infinity"
        ),
        pytest.param(
            with_member(b'"x":"\xff"'), "The body is not valid UTF-8.", id="byte-ff"
        ),
        pytest.param(
            b'{"model":"\xff",' + MESSAGES + b"}",
            "The body is not valid UTF-8.",
            id="byte-ff-in-model",
        ),
        pytest.param(
            with_member(b'"x":"\xed\xa0\x80"'),
            "The body is not valid UTF-8.",
            id="surrogate-in-bytes",
        ),
        pytest.param(
            with_member(b'"\xed\xa0\x80":1,"\xed\xa0\x80":1'),
            "The body is not valid UTF-8.",
            id="surrogate-as-duplicate-key",
        ),
        pytest.param(
            with_member(b'"x":"\\ud800"'),
            "The body is not valid JSON: ",
            id="lone-surrogate-escape",
        ),
        pytest.param(
            with_member(b'"x":"a\x00b"'), "The body is not valid JSON: ", id="raw-nul"
        ),
        pytest.param(
            with_member(b'"x":' + b"9" * 5000),
            "A number in the body has too many digits",
            id="number-of-5000-digits",
        ),
        pytest.param(nested(5000), "The body is nested too deeply.", id="deep"),
        pytest.param(
            b'{"x":' + b"[" * 100_000,
            "The body is nested too deeply.",
            id="deep-without-end",
        ),
    ],
)
def test_body_that_is_no_request_is_refused(raw: bytes, message: str) -> None:
    error = refusal(chat, raw)

    assert isinstance(error, InvalidRequest)
    assert error.message.startswith(message), error.message


@pytest.mark.parametrize(
    ("member", "param"),
    [
        pytest.param(b'"n":1,"n":2', "n", id="known"),
        pytest.param(b'"x":1,"x":1', "x", id="unknown"),
        pytest.param(b'"x":{"y":1,"y":2}', "y", id="nested"),
        pytest.param(b'"x":[{"y":1,"y":2}]', "y", id="in-an-array"),
        pytest.param(b'"model":"other"', "model", id="model"),
        pytest.param(b'"a":1,"\\u0061":2', "a", id="written-differently"),
        pytest.param(b'"%b":1,"%b":2' % (b"k" * 99, b"k" * 99), "k" * 64, id="long"),
    ],
)
def test_key_given_twice_is_refused_by_its_name(member: bytes, param: str) -> None:
    error = refusal(chat, with_member(member))

    assert (400, param) == (error.http_status, error.param)


@pytest.mark.parametrize("key", ["n", "temperature", "max_completion_tokens"])
def test_key_given_twice_is_refused_beside_a_long_prompt(key: str) -> None:
    """However one of the two is spelled: long texts are not looked at, keys are."""
    spelled = "".join(f"\\u{ord(letter):04x}" for letter in key)
    member = f'"x":"{"long " * 400}","{key}":1,"{spelled}":1'.encode()

    error = refusal(chat, with_member(member))

    assert (400, key) == (error.http_status, error.param)


def test_equal_keys_in_different_objects_are_fine() -> None:
    chat(with_member(b'"x":{"a":1},"y":{"a":1,"b":{"a":2}}'))


@pytest.mark.parametrize("where", ["x", "tool parameters"])
def test_every_depth_is_either_carried_or_refused(where: str) -> None:
    outcomes = {judged(nested(depth, where)) for depth in range(150, 250)}

    assert {None, "The body is nested too deeply."} == outcomes


@pytest.mark.parametrize(
    "member",
    [
        pytest.param(b'"x":1e999', id="float-beyond-range"),
        pytest.param(b'"x":' + b"9" * 400, id="integer-of-400-digits"),
        pytest.param(b'"x":"\\u0000"', id="escaped-nul"),
        pytest.param(b'"x":"\\ud83d\\ude00"', id="surrogate-pair"),
    ],
)
def test_odd_but_valid_json_in_an_unknown_field_passes(member: bytes) -> None:
    assert "m" == chat(with_member(member)).model


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = (
    "model messages tools stop metadata response_format n seed logit_bias x"
    " stream_options tool_choice functions max_tokens"
)
fields = st.sampled_from(FIELDS.split())


@given(st.dictionaries(fields, json_values, max_size=4))
def test_any_value_anywhere_is_carried_or_refused(values: dict[str, object]) -> None:
    raw = json.dumps({"model": MODEL, "messages": [{}]} | values).encode()

    judged(raw)


@given(json_values, json_values)
def test_any_message_is_carried_or_refused(role: object, content: object) -> None:
    judged(body(messages=[{"role": "user", "content": content}, {"role": role}]))


@given(st.binary(max_size=80))
def test_any_bytes_are_refused(raw: bytes) -> None:
    assert isinstance(refusal(chat, raw), InvalidRequest)


@given(st.integers(0, 200), st.integers(0, 255))
def test_any_changed_byte_is_carried_or_refused(place: int, byte: int) -> None:
    raw = bytearray(body(tools=[{"type": "function", "function": {"name": "f"}}], n=2))
    raw[place % len(raw)] = byte

    judged(bytes(raw))


def judged(raw: bytes) -> str | None:
    """Only a refusal that can be written down may come of a body; its message."""
    try:
        chat(raw).to_upstream()
    except InvalidRequest as error:
        return str(json.loads(envelope(error))["error"]["message"])
    return None


def test_brackets_in_text_are_no_nesting() -> None:
    chat(with_member(b'"x":"' + b'[{\\"' * 500 + b'"'))


def test_many_objects_side_by_side_are_no_nesting() -> None:
    chat(with_member(b'"x":[' + b'{"a":[1]},' * 500 + b"1]"))


def test_text_without_an_end_is_looked_through_once() -> None:
    raw = b"[]" * 300 + b'"' + b'\\"' * 500_000

    started_s = time.perf_counter()
    refusal(chat, raw)

    # Once takes some 20 ms; once for each of its quotes would take an hour.
    assert time.perf_counter() - started_s < 5
