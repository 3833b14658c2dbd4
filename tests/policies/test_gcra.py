"""The arithmetic of rates, against a bucket of fractions too simple to be wrong."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import gcra
from policies.gcra import pace_of
from policies.plans import MAX_LIMIT, Rate

NOW_US = 1_800_000_000_000_000
MINUTE_US = 60_000_000

RATES = st.builds(
    Rate,
    of=st.just("tokens"),
    limit=st.one_of(st.integers(1, 50), st.integers(1, MAX_LIMIT)),
    per=st.sampled_from(["second", "minute", "hour", "day"]),
    burst=st.one_of(st.none(), st.integers(1, 100)),
)


class Bucket:
    """What is missing from a full bucket, in exact units."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.missing = Fraction(0)

    def refill(self, us: int) -> None:
        refilled = Fraction(self.rate.limit * us, self.rate.period_s * 1_000_000)
        self.missing = max(Fraction(0), self.missing - refilled)

    def admits(self, units: int) -> bool:
        return self.missing + units <= self.rate.capacity

    def change(self, units: int) -> None:
        self.missing = max(Fraction(0), self.missing + units)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["spend", "top up", "refund"]),
        st.integers(1, 60),
        st.one_of(st.just(0), st.integers(0, 10**6), st.integers(0, 10**11)),
    ),
    max_size=30,
)


@given(rate=RATES, steps=STEPS)
def test_bucket_agrees_with_fractions_after_every_step(
    rate: Rate, steps: list[tuple[str, int, int]]
) -> None:
    pace, bucket, tat, now_us = pace_of(rate), Bucket(rate), 0, NOW_US
    for action, units, later_us in steps:
        now_us += later_us
        bucket.refill(later_us)
        if action == "refund":
            tat = gcra.refund(pace, tat, now_us, units)
            bucket.change(-units)
        else:
            fits = gcra.missing_ticks(pace, tat, now_us, units) <= 0
            assert fits is bucket.admits(units)
            if fits or action == "top up":
                tat = gcra.charge(pace, tat, now_us, units)
                bucket.change(units)

        debt = max(0, tat - now_us * pace.ticks_per_us)
        assert Fraction(debt, pace.ticks_per_unit) == bucket.missing
        assert gcra.standing(pace, tat, now_us)[0] == -(-bucket.missing // 1)


@given(
    rate=RATES, spent=st.integers(0, 10**6), units=st.integers(1, 50), us=st.integers(0)
)
def test_waiting_as_told_admits_and_a_millisecond_less_does_not(
    rate: Rate, spent: int, units: int, us: int
) -> None:
    pace = pace_of(rate)
    units = min(units, rate.capacity)
    now_us = NOW_US + us
    tat = gcra.charge(pace, 0, NOW_US, spent)

    missing = gcra.missing_ticks(pace, tat, now_us, units)

    if missing > 0:
        wait_us = gcra.ticks_to_ms(pace, missing) * 1000
        assert gcra.missing_ticks(pace, tat, now_us + wait_us, units) <= 0
        assert gcra.missing_ticks(pace, tat, now_us + wait_us - 1000, units) > 0


@given(rate=RATES, spent=st.integers(0, 10**6))
def test_bucket_is_full_when_it_says_and_not_a_millisecond_before(
    rate: Rate, spent: int
) -> None:
    pace = pace_of(rate)
    tat = gcra.charge(pace, 0, NOW_US, spent)

    reset_us = gcra.standing(pace, tat, NOW_US)[1] * 1000

    assert gcra.standing(pace, tat, NOW_US + reset_us)[0] == 0
    if spent:
        assert gcra.standing(pace, tat, NOW_US + reset_us - 1000)[0] > 0


def test_seven_a_minute_are_seven_at_once_and_then_one_every_seventh() -> None:
    """Over a year of steady use no rounding adds or takes a single request."""
    pace = pace_of(Rate(of="requests", limit=7, per="minute"))
    tat = 0
    for _ in range(7):
        assert gcra.missing_ticks(pace, tat, NOW_US, 1) <= 0
        tat = gcra.charge(pace, tat, NOW_US, 1)

    for number in (1, 2, 3, 7, 8, 7 * 60 * 24 * 365):
        due_us = NOW_US + -(-number * MINUTE_US // 7)
        spent = gcra.charge(pace, tat, NOW_US, number - 1)
        assert gcra.missing_ticks(pace, spent, due_us - 1, 1) > 0
        assert gcra.missing_ticks(pace, spent, due_us, 1) <= 0


def test_refund_never_makes_the_bucket_fuller_than_full() -> None:
    rate = Rate(of="tokens", limit=10, per="minute")
    pace = pace_of(rate)
    tat = gcra.charge(pace, 0, NOW_US, 10)

    tat = gcra.refund(pace, tat, NOW_US, 1000)

    assert gcra.missing_ticks(pace, tat, NOW_US, 10) <= 0
    assert gcra.missing_ticks(pace, tat, NOW_US, 11) > 0


@pytest.mark.parametrize(
    ("used", "old", "new"),
    [
        pytest.param(10, 20, 600, id="upgrade"),
        pytest.param(20, 20, 7, id="downgrade-below-what-is-used"),
        pytest.param(0, 20, 600, id="untouched"),
        pytest.param(13, 7, 11, id="coprime"),
    ],
)
def test_changed_limit_keeps_what_was_used(used: int, old: int, new: int) -> None:
    before = pace_of(Rate(of="tokens", limit=old, per="minute"))
    after = pace_of(Rate(of="tokens", limit=new, per="minute"))
    tat = gcra.charge(before, 0, NOW_US, used)

    converted = gcra.convert(tat, NOW_US, before, after)

    assert gcra.standing(after, converted, NOW_US)[0] == used


@given(
    rate=RATES,
    limit=st.integers(1, MAX_LIMIT),
    spent=st.integers(0, 10**6),
    us=st.integers(0, 10**9),
)
def test_conversion_there_and_back_changes_nothing(
    rate: Rate, limit: int, spent: int, us: int
) -> None:
    other = Rate(of=rate.of, limit=limit, per=rate.per)
    pace, detour, now_us = pace_of(rate), pace_of(other), NOW_US + us
    tat = max(gcra.charge(pace, 0, NOW_US, spent), now_us * pace.ticks_per_us)

    there = gcra.convert(tat, now_us, pace, detour)
    back = gcra.convert(there, now_us, detour, pace)

    # But for a debt of more than 71 years, which is cut to them. An idle bucket only
    # keeps the microsecond from which on it was full.
    longest = (now_us + gcra.MAX_DEBT_US) * detour.ticks_per_us
    assert back == tat or there == longest


@given(rate=RATES, spent=st.integers(0, 10**6))
def test_bucket_survives_being_kept_in_two_small_numbers(
    rate: Rate, spent: int
) -> None:
    """A ledger of 53-bit numbers keeps microseconds and the ticks beyond them."""
    pace = pace_of(rate)
    spent = min(spent, rate.capacity)
    tat = gcra.charge(pace, 0, NOW_US, spent)

    whole_us, rest = divmod(tat, pace.ticks_per_us)

    assert whole_us < 2**53
    assert rest < pace.ticks_per_us <= 2**40
