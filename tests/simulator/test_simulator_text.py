from __future__ import annotations

import pytest

from gateway.simulator.text import (
    compose,
    count_tokens,
    digest_of,
    split_tokens,
    write_text,
)

DIGEST = digest_of("model", "prompt", 0, 0)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param("", 0, id="nothing"),
        pytest.param("Hello, world!", 4, id="words-and-marks"),
        pytest.param("a" * 13, 2, id="long-word"),
        pytest.param("one \n\n two", 3, id="white-space-is-one"),
        pytest.param("naïve 日本語", 2, id="letters-of-any-script"),
        pytest.param('{"city":"Rome"}', 9, id="json"),
    ],
)
def test_token_count_follows_the_documented_rule(text: str, count: int) -> None:
    assert count == count_tokens(text)


@pytest.mark.parametrize("text", ["  two\tblanks \r\n", "a_b-c\u200b\x00d", "É…!?  "])
def test_tokens_joined_are_the_text(text: str) -> None:
    assert text == "".join(split_tokens(text))


@pytest.mark.parametrize("length", [*range(4, 60), 120, 1_000])
def test_text_has_exactly_the_wanted_tokens(length: int) -> None:
    pieces = write_text(DIGEST, length)

    assert list(pieces) == split_tokens("".join(pieces))
    assert length == len(pieces)


def test_text_is_whole_sentences() -> None:
    text = "".join(write_text(DIGEST, 100))

    sentences = text.removesuffix(".").split(". ")
    assert all(s[0].isupper() and len(s.split()) >= 3 for s in sentences)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("other", "prompt", 0, 0), id="model"),
        pytest.param(("model", "other", 0, 0), id="prompt"),
        pytest.param(("model", "prompt", 1, 0), id="index"),
        pytest.param(("model", "prompt", 0, 1), id="seed"),
    ],
)
def test_text_depends_on_each_of_its_inputs(other: tuple[str, str, int, int]) -> None:
    assert compose(DIGEST, 20, 120, 999) != compose(digest_of(*other), 20, 120, 999)


def test_text_cut_off_by_its_limit_is_a_prefix() -> None:
    whole, cut = compose(DIGEST, 20, 120, 999), compose(DIGEST, 20, 120, 7)

    assert list(whole.pieces[:7]) == list(cut.pieces)
    assert (whole.is_finished, cut.is_finished) == (True, False)
