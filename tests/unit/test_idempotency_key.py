"""The key in its header, and the digest of what was asked under it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.replay.fingerprint import asked_of
from gateway.replay.header import read_key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        pytest.param(b"order-4711", "order-4711", id="bare"),
        pytest.param(b'"order-4711"', "order-4711", id="quoted"),
        pytest.param(b'"a \\"b\\" \\\\"', 'a "b" \\', id="escaped"),
        pytest.param(b"two words", "two words", id="bare with a space"),
        pytest.param(b"x" * 255, "x" * 255, id="255"),
        pytest.param(b'"' + b"x" * 255 + b'"', "x" * 255, id="255 quoted"),
    ],
)
def test_a_key_is_read_bare_or_quoted(value: bytes, key: str) -> None:
    assert read_key(value) == key


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'""', id="empty quoted"),
        pytest.param(b"x" * 256, id="256"),
        pytest.param(b'"open', id="open quote"),
        pytest.param(b'"a"b', id="more behind it"),
        pytest.param(b'"a\\x"', id="unknown escape"),
        pytest.param(b"a\tb", id="tab"),
        pytest.param("sch\u00f6n".encode(), id="not ascii"),
        pytest.param(b"a\x7f", id="delete"),
    ],
)
def test_what_is_no_key_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequest, match="1 to 255 printable"):
        read_key(value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)


def _turned(value: Any) -> Any:
    """The same with each object's keys in another order."""
    if isinstance(value, dict):
        return {key: _turned(value[key]) for key in reversed(value)}
    return [_turned(each) for each in value] if isinstance(value, list) else value


@given(st.dictionaries(st.text(), values, max_size=4), st.integers(0, 4))
def test_order_and_white_space_do_not_matter(body: dict[str, Any], indent: int) -> None:
    one = json.dumps(body).encode()
    other = json.dumps(_turned(body), indent=indent, ensure_ascii=False)

    try:
        encoded = other.encode()
    except UnicodeEncodeError:
        return  # half a surrogate pair, which is no JSON in bytes
    assert asked_of("/r", "m", one) == asked_of("/r", "m", encoded)


@given(values, values)
def test_other_values_are_another_request(one: Any, other: Any) -> None:
    bodies = [json.dumps({"x": value}).encode() for value in (one, other)]
    digests = {asked_of("/r", "m", body).fingerprint for body in bodies}

    # As JSON: to Python, true is 1.
    written = {json.dumps(value, sort_keys=True) for value in (one, other)}
    assert len(digests) == len(written)


def test_route_and_model_are_part_of_the_request() -> None:
    """The model of a native route stands in its path, and nowhere in the body."""
    digests = {
        asked_of(route, model, b"{}").fingerprint
        for route in ("/a", "/b")
        for model in ("m", "n")
    }
    assert len(digests) == 4


def test_a_number_beyond_what_is_held_still_has_a_fingerprint() -> None:
    one, other = (asked_of("/r", "m", b'{"x":%de999}' % n) for n in (1, 2))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize(
    ("body", "is_deterministic"),
    [
        pytest.param({"temperature": 0}, True, id="temperature 0"),
        pytest.param({"temperature": 0.0, "seed": None}, True, id="0.0"),
        pytest.param({"temperature": 1, "seed": 7}, True, id="seed"),
        pytest.param({"seed": 0}, True, id="seed 0"),
        pytest.param({}, False, id="neither"),
        pytest.param({"temperature": 0.1}, False, id="above 0"),
        pytest.param({"temperature": False}, False, id="no number"),
        pytest.param({"seed": True}, False, id="no seed"),
        pytest.param([], False, id="no object"),
    ],
)
def test_what_is_meant_to_give_one_answer(body: Any, is_deterministic: bool) -> None:
    asked = asked_of("/r", "m", json.dumps(body).encode())
    assert asked.is_deterministic == is_deterministic
