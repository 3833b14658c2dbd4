"""What can be proven of a bucket, and what its uncertainty excuses."""

from __future__ import annotations

import pytest

from gateway.conformance.buckets import (
    Bucket,
    Charge,
    least_used,
    most_used,
    most_used_between,
    peak_overlap,
    peak_use,
)

TEN = Bucket(10, 1.0)  # and one more each second
ONCE = Bucket(10)


def charge(earliest_s: float, latest_s: float, units: float = 1) -> Charge:
    return Charge(
        earliest_s=earliest_s, latest_s=latest_s, certain=units, possible=units
    )


PEAKS = [
    pytest.param(TEN, [], 0.0, id="nothing"),
    pytest.param(TEN, [(0, 0)] * 10, 10.0, id="a full burst"),
    pytest.param(TEN, [(0, 0)] * 11, 11.0, id="one too many"),
    pytest.param(TEN, [(0, 0)] * 10 + [(0.5, 1.0)], 10.0, id="may have refilled"),
    pytest.param(TEN, [(0, 0)] * 10 + [(0.5, 0.9)], 10.1, id="cannot have refilled"),
    pytest.param(TEN, [(0, 1)] * 11, 10.0, id="within a slow answer"),
    pytest.param(TEN, [(0, 0.5)] * 11, 10.5, id="not within a faster one"),
    pytest.param(
        TEN, [(0, 0), (50, 50)] + [(60, 60)] * 10, 10.0, id="idle time saves nothing up"
    ),
    pytest.param(
        TEN, [(0, 0)] * 3 + [(60, 60)] * 11, 11.0, id="worst window, not the whole"
    ),
    pytest.param(
        ONCE, [(0, 0)] * 5 + [(9999, 9999)] * 6, 11.0, id="a quota forgets not"
    ),
]


@pytest.mark.parametrize(("bucket", "intervals", "expected"), PEAKS)
def test_peak_use(
    bucket: Bucket, intervals: list[tuple[float, float]], expected: float
) -> None:
    charges = [charge(*interval) for interval in intervals]

    assert peak_use(bucket, charges) == pytest.approx(expected, abs=0.01)


def test_what_may_lie_outside_is_not_certain() -> None:
    assert least_used(ONCE, [charge(0, 2)], 1) == 0
    assert most_used(ONCE, [charge(0, 2)], 1) == 1


def test_a_settled_reservation_counts_until_it_is_settled() -> None:
    lease = Charge(
        earliest_s=0, latest_s=0, certain=1, possible=9, settled_s=5, settled=1
    )

    assert most_used(ONCE, [lease], 5) == 9
    assert most_used(ONCE, [lease], 6) == 1


def test_the_most_between_two_instants_sees_what_begins_between() -> None:
    charges = [charge(0, 0, 4), charge(2, 9, 5)]

    assert most_used_between(TEN, charges, 1, 1.5) == pytest.approx(3, abs=0.01)
    assert most_used_between(TEN, charges, 1, 2.5) == pytest.approx(7, abs=0.01)


OVERLAPS = [
    pytest.param([], 0, id="none"),
    pytest.param([(0, 1), (1, 2)], 1, id="one after the other"),
    pytest.param([(0, 2), (1, 3), (1.5, 1.6)], 3, id="three at once"),
    pytest.param([(0, 2), (1, 0.5)], 1, id="proves nothing"),
]


@pytest.mark.parametrize(("intervals", "expected"), OVERLAPS)
def test_peak_overlap(intervals: list[tuple[float, float]], expected: int) -> None:
    assert expected == peak_overlap(intervals)
