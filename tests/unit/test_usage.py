"""The meter of text that arrives in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.translation.usage import StreamMeter, TokenUsage
from policies.estimate import estimate_text_tokens


def metered(*pieces: str) -> int:
    meter = StreamMeter(0, None)
    for piece in pieces:
        meter.add(piece)
    return meter.usage.output_tokens


@given(st.lists(st.text()))
def test_pieces_count_as_the_text_they_make(pieces: list[str]) -> None:
    assert estimate_text_tokens("".join(pieces)) == metered(*pieces)


def test_long_text_in_single_characters_counts_about_what_it_is() -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 1000

    whole = estimate_text_tokens(text)

    assert whole <= metered(*text) <= whole * 1.01


def test_reading_the_meter_changes_nothing() -> None:
    meter = StreamMeter(0, None)
    meter.add("Hello")

    assert meter.usage == meter.usage


def test_estimate_is_never_more_than_the_caller_allowed() -> None:
    meter = StreamMeter(3, 4)
    meter.add("word " * 100)

    assert TokenUsage(3, 4, is_reported=False) == meter.usage


def test_report_counts_until_more_text_follows_it() -> None:
    meter = StreamMeter(3, None)
    meter.add("Hello")
    meter.note({"usage": {"prompt_tokens": 7, "completion_tokens": 9}})
    reported = meter.usage
    meter.add("word " * 100)

    assert TokenUsage(7, 9, is_reported=True) == reported
    assert meter.usage.output_tokens >= 100
    assert not meter.usage.is_reported
