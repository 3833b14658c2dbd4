"""Too much and too little: found by one, and excused by no more than uncertainty."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.conformance.admissions import (
    judge_admissions,
    judge_concurrency_refusals,
    judge_excess,
    judge_overlap,
    judge_refusals,
)
from gateway.conformance.observations import Attempt, LimitSeen, StreamSeen
from tests.conformance.seen import attempt, concurrency, evidence, quota, rate, refused

RATE = rate()
TEN = [attempt(0) for _ in range(10)]
REFUSAL = refused(RATE, 0.01, 0.02)
DAY = quota()

EXCESSES = [
    pytest.param(RATE, [*TEN, REFUSAL], (0, "pass"), id="exactly the burst"),
    pytest.param(RATE, [*TEN, attempt(0.5), REFUSAL], (1, "FAIL"), id="one too many"),
    pytest.param(RATE, [*TEN, attempt(0.5, 1.1), REFUSAL], (0, "pass"), id="refilled"),
    pytest.param(RATE, [*TEN, attempt(0.5)], (1, "FAIL"), id="never refused"),
    pytest.param(RATE, TEN, (None, "skipped"), id="never reached"),
    pytest.param(
        RATE,
        [*TEN, attempt(0.1, outcome="unknown"), REFUSAL],
        (0, "pass"),
        id="an unanswered one is not provably admitted",
    ),
    pytest.param(
        DAY,
        [attempt(t, reserve_tokens=100, total_tokens=100) for t in range(6)],
        (100, "FAIL"),
        id="a quota by tokens",
    ),
    pytest.param(
        DAY,
        [attempt(t, reserve_tokens=50, total_tokens=100) for t in range(6)]
        + [refused(DAY, 9, 9)],
        (0, "pass"),
        id="top-ups are nobody's admission",
    ),
]


@pytest.mark.parametrize(("limit", "attempts", "expected"), EXCESSES)
def test_over_admission(
    limit: LimitSeen, attempts: list[Attempt], expected: tuple[Any, str]
) -> None:
    finding = judge_excess(limit, evidence(limit, *attempts))

    assert expected == (finding.figure, finding.verdict)


REFUSALS = [
    pytest.param(RATE, [*TEN, REFUSAL], (0, "pass"), id="due"),
    pytest.param(RATE, [*TEN[1:], REFUSAL], (1, "FAIL"), id="one short of the burst"),
    pytest.param(
        RATE, [*TEN, refused(RATE, 1.1, 1.2)], (1, "FAIL"), id="although refilled"
    ),
    pytest.param(
        RATE, [*TEN, refused(RATE, 0.9, 1.2)], (0, "pass"), id="may have been earlier"
    ),
    pytest.param(
        RATE,
        [*TEN[1:], attempt(0.01, 0.5), refused(RATE, 0.0, 0.1)],
        (0, "pass"),
        id="one in flight may have been first",
    ),
    pytest.param(
        RATE,
        [*TEN[1:], attempt(0.0, outcome="unknown"), REFUSAL],
        (0, "pass"),
        id="an unanswered one may have been charged",
    ),
    pytest.param(
        DAY,
        [attempt(0, reserve_tokens=400), refused(DAY, 0.1, 0.1, requested=200)],
        (0, "pass"),
        id="a reservation not yet settled",
    ),
    pytest.param(
        DAY,
        [attempt(0, reserve_tokens=400), refused(DAY, 0.5, 0.5, requested=200)],
        (1, "FAIL"),
        id="a reservation that should be settled",
    ),
    pytest.param(RATE, TEN, (None, "skipped"), id="never refused"),
]


@pytest.mark.parametrize(("limit", "attempts", "expected"), REFUSALS)
def test_under_admission(
    limit: LimitSeen, attempts: list[Attempt], expected: tuple[Any, str]
) -> None:
    finding = judge_refusals(limit, evidence(limit, *attempts))

    assert expected == (finding.figure, finding.verdict)


def test_what_was_used_before_the_run_counts() -> None:
    used = rate(used=4, remaining=6)
    seven = [attempt(0) for _ in range(7)]
    late = refused(used, 0.01, 0.02)

    # The bucket was seen a second before, and 4 told as used may be a little above 3.
    assert judge_excess(used, evidence(used, *seven, late)).verdict == "pass"
    nine = [attempt(0) for _ in range(9)]
    assert judge_excess(used, evidence(used, *nine, late)).figure == 1


def stream(opened_s: float, alive_s: float) -> StreamSeen:
    return StreamSeen(replica=0, opened_s=opened_s, alive_s=alive_s, was_dropped=True)


PLACES = concurrency()
NO_PLACE = refused(PLACES, 0.5, 0.6)
OVERLAPS = [
    pytest.param([stream(0, 1)] * 3, (0, "pass"), id="as many as may be"),
    pytest.param([stream(0, 1)] * 4, (1, "FAIL"), id="one too many"),
    pytest.param(
        [stream(0, 1)] * 3 + [stream(0.95, 2)], (0, "pass"), id="within the margin"
    ),
    pytest.param(
        [stream(0, 1)] * 3 + [stream(0.85, 2)], (1, "FAIL"), id="beyond the margin"
    ),
    pytest.param([stream(0, 0.05)] * 3, (None, "skipped"), id="ended too soon"),
]


@pytest.mark.parametrize(("streams", "expected"), OVERLAPS)
def test_streams_at_once(streams: list[StreamSeen], expected: tuple[Any, str]) -> None:
    seen = evidence(PLACES, NO_PLACE, streams=streams)

    finding = judge_overlap(PLACES, seen)

    assert expected == (finding.figure, finding.verdict)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        pytest.param([attempt(0, 0.1, ended_s=1.0)] * 3, 0, id="all taken"),
        pytest.param([attempt(0, 0.1, ended_s=1.0)] * 2, 1, id="one was free"),
        pytest.param([attempt(0, 0.1, ended_s=0.3)] * 3, 0, id="may not be settled"),
        pytest.param([attempt(0, 0.1, ended_s=0.2)] * 3, 1, id="long settled"),
        pytest.param(
            [attempt(0, 0.1, ended_s=0.2, total_tokens=None)] * 3, 0, id="just dropped"
        ),
        pytest.param([attempt(0.55, 0.6)] * 3, 0, id="begun meanwhile"),
    ],
)
def test_refusals_for_want_of_a_place(held: list[Attempt], expected: int) -> None:
    finding = judge_concurrency_refusals(PLACES, evidence(PLACES, *held, NO_PLACE))

    assert expected == finding.figure


@pytest.mark.parametrize(
    ("first", "last", "why"),
    [
        (quota(), quota(resets_at=90_000), "window ended"),
        (rate(), rate(limit=99), "plan changed"),
    ],
)
def test_what_cannot_be_judged_is_skipped(
    first: LimitSeen, last: LimitSeen, why: str
) -> None:
    seen = evidence(first, *TEN)
    seen.snapshots.append(evidence(last).first)

    found = list(judge_admissions(seen))

    assert {"skipped"} == {finding.verdict for finding in found}
    assert {"changed-meanwhile"} == {finding.cause for finding in found}
    assert all(why in finding.reason for finding in found)
