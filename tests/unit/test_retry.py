"""When one more attempt is made, and after which wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    GatewayError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from gateway.upstream.retry import BASE_WAIT_S, LONGEST_WAIT_S, retry_wait_s

CONNECTION = UpstreamError("refused")


def limited(wait_ms: int | None) -> UpstreamRateLimited:
    return UpstreamRateLimited("slow down", retry_after_ms=wait_ms)


def overloaded(wait_ms: int | None) -> UpstreamOverloaded:
    return UpstreamOverloaded("no room", retry_after_ms=wait_ms)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(CONNECTION, BASE_WAIT_S, id="refused-connection"),
        pytest.param(overloaded(None), BASE_WAIT_S, id="overloaded"),
        pytest.param(overloaded(1000), 1.05, id="overloaded-with-a-wait"),
        pytest.param(limited(1000), 1.05, id="limited-with-a-wait"),
        pytest.param(limited(0), 0.0, id="limited-for-no-time"),
        pytest.param(limited(None), None, id="limited-for-who-knows"),
        pytest.param(limited(60_000), None, id="limited-for-long"),
        pytest.param(overloaded(60_000), None, id="overloaded-for-long"),
    ],
)
def test_wait_before_the_second_attempt(
    error: GatewayError, expected: float | None
) -> None:
    wait_s = retry_wait_s(error, attempt=1, max_attempts=2, jitter=0.5)

    assert pytest.approx(expected) == wait_s


def test_last_attempt_is_the_last() -> None:
    assert None is retry_wait_s(CONNECTION, attempt=2, max_attempts=2, jitter=0.5)


def test_wait_doubles_with_each_attempt() -> None:
    waits = [
        retry_wait_s(CONNECTION, attempt=attempt, max_attempts=9, jitter=0.5)
        for attempt in (1, 2, 3)
    ]

    assert pytest.approx([0.2, 0.4, 0.8]) == waits


@given(st.integers(0, 10**9), st.floats(0, 1), st.sampled_from([limited, overloaded]))
def test_wait_is_never_earlier_than_asked_and_never_long(
    wait_ms: int, jitter: float, error: type
) -> None:
    wait_s = retry_wait_s(error(wait_ms), attempt=1, max_attempts=5, jitter=jitter)

    assert wait_s is None or wait_ms / 1000 <= wait_s <= LONGEST_WAIT_S


@given(st.floats(0, 1))
def test_jitter_spreads_around_the_base(jitter: float) -> None:
    wait_s = retry_wait_s(CONNECTION, attempt=1, max_attempts=2, jitter=jitter)

    assert wait_s is not None
    assert 0.5 * BASE_WAIT_S <= wait_s <= 1.5 * BASE_WAIT_S
