"""The meter of text that arrives in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.translation.usage import TextMeter
from policies.estimate import estimate_text_tokens


def metered(*pieces: str) -> int:
    meter = TextMeter()
    for piece in pieces:
        meter.add(piece)
    return meter.tokens


@given(st.lists(st.text()))
def test_pieces_count_as_the_text_they_make(pieces: list[str]) -> None:
    assert estimate_text_tokens("".join(pieces)) == metered(*pieces)


def test_long_text_in_single_characters_counts_about_what_it_is() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 1000

    whole = estimate_text_tokens(text)

    assert whole <= metered(*text) <= whole * 1.01


def test_reading_the_meter_changes_nothing() -> None:
    meter = TextMeter()
    meter.add("Hello")

    assert meter.tokens == meter.tokens
