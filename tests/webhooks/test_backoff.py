"""Failed deliveries are tried again for about a day, and not all at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.webhooks.backoff import LONGEST_WAITS_S, next_attempt_s

ATTEMPTS = len(LONGEST_WAITS_S)


def test_attempts_last_a_day_on_average() -> None:
    waits = [next_attempt_s(attempt, 0.5) or 0 for attempt in range(1, ATTEMPTS + 1)]

    assert 23 * 3600 <= sum(waits) <= 24 * 3600


def test_waits_grow() -> None:
    assert list(LONGEST_WAITS_S) == sorted(set(LONGEST_WAITS_S))


def test_after_the_last_attempt_there_is_none() -> None:
    assert next_attempt_s(ATTEMPTS + 1, 0.5) is None
    assert next_attempt_s(ATTEMPTS + 1, 0.5, retry_after_s=60) is None


@given(attempt=st.integers(1, ATTEMPTS), random=st.floats(0, 1))
def test_jitter_is_full(attempt: int, random: float) -> None:
    wait_s = next_attempt_s(attempt, random)

    assert wait_s == random * LONGEST_WAITS_S[attempt - 1]


def test_a_receiver_that_asked_for_a_pause_gets_it() -> None:
    assert next_attempt_s(1, 0.5, retry_after_s=600) == 600
    assert next_attempt_s(5, 1.0, retry_after_s=600) == LONGEST_WAITS_S[4]


@pytest.mark.parametrize("attempt", [0, -1])
def test_attempts_are_counted_from_one(attempt: int) -> None:
    with pytest.raises(ValueError, match="from 1"):
        next_attempt_s(attempt, 0.5)
