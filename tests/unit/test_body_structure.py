"""
What is judged by a body's structure: the quick looks say what the slow ones would.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.translation.body import MAX_NESTING, decode_body


class Anything(msgspec.Struct):
    """Knows no member, so that msgspec passes over all of them."""


# What a key or a text may be made of: everything that the quick looks trip over.
INK = (
    *("a", "\\u0061", "é", "\\u00e9", "b", "~", "~~", "x" * 40),
    *('\\"', "\\u0022", "\\\\", "\\u005c", "\\u005C", "\\n", "\\t"),
    *(":", '\\":', '\\": \\"', ",", " ", "{", "}", "[", "]"),
)
texts = st.lists(st.sampled_from(INK), max_size=4).map(
    lambda ink: '"' + "".join(ink) + '"'
)
gaps = st.sampled_from(["", "", " ", "\n\t "])
scalars = st.sampled_from(["1", "-0.5e3", "true", "null", "1e999", "9" * 400])


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str]) -> str:
    members = [
        f"{draw(gaps)}{draw(texts)}{draw(gaps)}:{draw(gaps)}{draw(values)}{draw(gaps)}"
        for _ in range(draw(st.integers(0, 4)))
    ]
    return "{" + ",".join(members) + "}"


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=3).map(lambda items: "[" + ",".join(items) + "]")


values = st.recursive(
    texts | scalars, lambda inner: objects(inner) | arrays(inner), max_leaves=8
)
# With it a body is long enough to be judged by its outline.
PADDING = '"pad":"' + 'They said \\"a\\": {[ and \\\\ ~~ \\n' * 50 + '"'


def is_refused(raw: bytes, words: str) -> bool:
    try:
        decode_body(raw, msgspec.json.Decoder(Anything))
    except InvalidRequest as error:
        return words in error.message
    return False


def has_key_twice(raw: bytes) -> bool:
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({key for key, _ in pairs}) < len(pairs))

    json.loads(raw, object_pairs_hook=look)
    return any(found)


@given(objects(values), st.booleans())
def test_key_is_refused_exactly_if_it_is_given_twice(inner: str, is_long: bool) -> None:
    padding = "," + PADDING if is_long else ""
    raw = f'{{"x":{inner}{padding}}}'.encode()

    assert has_key_twice(raw) == is_refused(raw, "appears twice")


@pytest.mark.parametrize("key", ['\\"', "\\\\", "~~", "k" * 70, "é"])
@pytest.mark.parametrize("other", ["\\u0022", "\\u005c", "\\u005C", "k" * 71, "é"])
@pytest.mark.parametrize("padding", ["", "," + PADDING], ids=["short", "long"])
def test_key_written_in_two_ways_is_the_same_key(
    key: str, other: str, padding: str
) -> None:
    raw = f'{{"{key}":1,"{other}":"{key}{other}"{padding}}}'.encode()

    assert has_key_twice(raw) == is_refused(raw, "appears twice")


def depth_of(raw: bytes) -> int:
    """The deepest nesting in what may be JSON, byte by byte."""
    depth = deepest = 0
    is_text = is_escaped = False
    for byte in raw:
        if is_text:
            is_text = is_escaped or byte != ord('"')
            is_escaped = not is_escaped and byte == ord("\\")
        elif byte == ord('"'):
            is_text = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


rubble = st.sampled_from(
    [b'"', b'"', b"\\", b'\\"', b"\\\\", b"~", b"a", b"[" * 101, b"{" * 99, b"]" * 99]
)


@given(st.lists(rubble, max_size=12), st.booleans())
def test_any_bytes_are_too_deep_exactly_if_their_brackets_are(
    pieces: list[bytes], is_long: bool
) -> None:
    raw = b"".join(pieces) + b" " * (2000 if is_long else 0)

    assert (depth_of(raw) > MAX_NESTING) == is_refused(raw, "nested too deeply")


@pytest.mark.parametrize("before", [b'\\"', b'\\\\"', b'"\\\\"', b'"\\""', b'~"\\"'])
def test_brackets_after_stray_escapes_count_where_they_are_outside_of_texts(
    before: bytes,
) -> None:
    raw = before + b"[" * 250 + b" " * 2000

    assert (depth_of(raw) > MAX_NESTING) == is_refused(raw, "nested too deeply")


def test_bytes_that_are_no_utf8_are_refused_in_long_texts_too() -> None:
    raw = b'{"x":"' + b"a" * 2000 + b'\xed\xa0\x80"}'

    assert is_refused(raw, "not valid UTF-8")
