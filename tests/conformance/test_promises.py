"""What was told against what came: kept, broken, or not to be known."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.conformance.findings import Skip
from gateway.conformance.observations import (
    Attempt,
    DropTrial,
    LimitSeen,
    PreviewSeen,
    PreviewTrial,
    RemainingTrial,
    SettlementTrial,
    Snapshot,
    WaitTrial,
)
from gateway.conformance.promises import (
    disagreement,
    foreign_use,
    is_preview_kept,
    is_remaining_true,
    is_wait_kept,
    judge_agreement,
    judge_headers,
    judge_leaks,
    judge_settlement,
)
from tests.conformance.seen import (
    attempt,
    concurrency,
    evidence,
    look,
    quota,
    rate,
    refused,
)

RATE = rate()
TOLD = refused(RATE, 0.0, 0.1, retry_after_ms=1000)
AGAIN = refused(RATE, 1.1, 1.2)
DUE = attempt(1.1, 1.2)

WAITS = [
    pytest.param(TOLD, refused(RATE, 0.8, 0.9), DUE, True, id="kept"),
    pytest.param(TOLD, None, AGAIN, False, id="still refused when due"),
    pytest.param(TOLD, attempt(0.8, 0.9), DUE, False, id="admitted too early"),
    pytest.param(TOLD, attempt(0.8, 1.05), DUE, None, id="perhaps not too early"),
    pytest.param(refused(RATE, 0, 0.1), None, DUE, False, id="told no wait"),
    pytest.param(TOLD, None, attempt(1.1, outcome="failed"), None, id="failed"),
]


@pytest.mark.parametrize(("rejection", "early", "late", "expected"), WAITS)
def test_retry_after(
    rejection: Attempt, early: Attempt | None, late: Attempt, expected: bool | None
) -> None:
    trial = WaitTrial(rejection=rejection, early=early, late=late)

    assert expected is is_wait_kept(trial)


@pytest.mark.parametrize(
    ("limit", "said", "expected"),
    [
        pytest.param(rate(used=4), {"requests": 5}, True, id="less its own charge"),
        pytest.param(rate(used=4), {"requests": 6}, True, id="and a refill"),
        pytest.param(rate(used=4), {"requests": 4}, False, id="charged twice"),
        pytest.param(rate(used=4), {"requests": 8}, False, id="not charged"),
        pytest.param(quota(used=100), {"tokens": 388}, True, id="the reservation"),
        pytest.param(quota(used=100), {"tokens": 400}, False, id="before the charge"),
        pytest.param(quota(), {"requests": 4}, None, id="no such limit"),
    ],
)
def test_remaining(
    limit: LimitSeen, said: dict[str, int], expected: bool | None
) -> None:
    before = look(limit, at=0.0)
    trial = RemainingTrial(before=before, attempt=attempt(0.1, 0.2, remaining=said))

    assert expected is is_remaining_true(trial)


@pytest.mark.parametrize(
    ("would_pass", "retry_ms", "then", "expected"),
    [
        pytest.param(True, None, attempt(0.1, 0.2), True, id="passed as told"),
        pytest.param(True, None, refused(RATE, 0.1, 0.2), False, id="refused"),
        pytest.param(False, 900, refused(RATE, 0.1, 0.2), True, id="refused as told"),
        pytest.param(False, 900, attempt(0.1, 0.2), False, id="admitted before due"),
        pytest.param(False, 900, attempt(0.1, 1.2), None, id="may have been due"),
        pytest.param(True, None, attempt(0.1, outcome="failed"), None, id="failed"),
    ],
)
def test_preview(
    would_pass: bool, retry_ms: int | None, then: Attempt, expected: bool | None
) -> None:
    told = PreviewSeen(
        replica=0,
        sent_s=0.0,
        answered_s=0.05,
        would_pass=would_pass,
        reserve_tokens=12,
        retry_after_ms=retry_ms,
    )

    assert expected is is_preview_kept(PreviewTrial(preview=told, attempt=then))


def settled(before: LimitSeen, after: LimitSeen, *attempts: Attempt) -> Any:
    seen = evidence(before)
    trial = SettlementTrial(
        before=look(before),
        after=look(after, at=1.0),
        attempts=attempts,
        is_settled=True,
    )
    seen.settlements.append(trial)
    (finding,) = judge_settlement(seen)
    return finding.figure, finding.verdict


@pytest.mark.parametrize(
    ("used", "expected"),
    [(20, (0, "pass")), (21, (1, "FAIL")), (19, (-1, "FAIL")), (24, (4, "FAIL"))],
)
def test_settlement_is_exact_to_the_token(used: int, expected: Any) -> None:
    assert expected == settled(quota(), quota(used), attempt(0), attempt(0.5))


def test_settlement_needs_reported_usage() -> None:
    unreported = attempt(0, total_tokens=None)

    assert (None, "skipped") == settled(quota(), quota(12), unreported)


@pytest.mark.parametrize(
    ("used", "expected"),
    [(10, "pass"), (8, "pass"), (7, "FAIL"), (11, "FAIL")],
)
def test_use_of_a_rate_is_what_was_admitted_less_the_refill(
    used: int, expected: str
) -> None:
    # Admitted between 0 and 1 s and told between 1.5 and 1.9: at least 8.1 are left.
    seen = evidence(RATE, *[attempt(0, 1.0) for _ in range(10)])
    seen.snapshots.append(look(rate(used=used), at=1.5, took=0.4))

    (finding,) = judge_settlement(seen)

    assert expected == finding.verdict


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param(quota(7), quota(7), 0, id="equal"),
        pytest.param(quota(7), quota(8), 1, id="one more"),
        pytest.param(concurrency(1), concurrency(0), 1, id="a lease only one knows"),
        pytest.param(rate(used=5), rate(used=4), 0, id="refilled meanwhile"),
        pytest.param(rate(used=5), rate(used=2), 1, id="more than could refill"),
        pytest.param(rate(used=5), rate(used=6), 1, id="a rate does not rise"),
    ],
)
def test_disagreement(first: LimitSeen, second: LimitSeen, expected: int) -> None:
    looks = (look(first, at=0.0), look(second, at=0.1, took=0.1, replica=1))

    assert expected == disagreement(first.dimension, looks)


def test_a_limit_that_one_replica_lacks_is_a_disagreement() -> None:
    assert disagreement(RATE.dimension, (look(RATE), look(quota(), replica=1))) == 1


def agreed(limit: LimitSeen, **fields: Any) -> Any:
    rounds = [(look(limit), look(limit, at=0.1, replica=1))]
    (finding,) = judge_agreement(evidence(limit, replicas=2, rounds=rounds, **fields))
    return finding.verdict, finding.cause


def test_replicas_that_know_nothing_do_not_agree_yet() -> None:
    """Two that count for themselves both say 0 of what nobody has used."""
    room = Skip("small-plan", "no room")

    assert ("pass", None) == agreed(quota(7))
    assert ("skipped", "fast-refill") == agreed(rate(used=0))
    assert ("skipped", "short-answers") == agreed(concurrency(0))
    assert ("skipped", "small-plan") == agreed(quota(7), untried={"agreement": room})


def test_answers_without_headers_are_not_other_traffic() -> None:
    """A proxy in between may drop them."""
    seen = evidence(RATE, attempt(0.1))
    trial = RemainingTrial(before=look(RATE), attempt=seen.attempts[0])
    seen.remainings.append(trial)

    causes = {f.subject: f.cause for f in judge_headers(seen)}

    assert causes["x-ratelimit-remaining"] == "no-headers"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0, "pass")),
        ({"still_held": 1, "free_s": None}, (1, "FAIL")),
        ({"refused_again": 2}, (2, "FAIL")),
        ({"free_s": 12.5}, (0, "FAIL")),
        ({"dropped": 0}, (None, "skipped")),
    ],
)
def test_leaks(changes: dict[str, Any], expected: Any) -> None:
    good = DropTrial(
        dropped=3,
        dropped_s=10.0,
        free_s=10.1,
        still_held=0,
        reopened=3,
        refused_again=0,
    )
    trial = msgspec.structs.replace(good, **changes)

    (finding,) = judge_leaks(evidence(concurrency(), drops=[trial]))

    assert expected == (finding.figure, finding.verdict)


@pytest.mark.parametrize(
    ("looks", "attempts", "is_found"),
    [
        pytest.param([quota(1), quota(1)], [], False, id="nothing"),
        pytest.param([quota(1), quota(2)], [], True, id="somebody else's"),
        pytest.param([quota(1), quota(9)], [attempt(0.5)], False, id="ours"),
        pytest.param([quota(1), quota(2)], [attempt(-9.0)], True, id="long settled"),
        pytest.param([quota(2), quota(1)], [], False, id="a refund"),
    ],
)
def test_foreign_use(
    looks: list[LimitSeen], attempts: list[Attempt], is_found: bool
) -> None:
    seen = evidence(looks[0], *attempts)
    seen.snapshots += [look(limit, at=at) for at, limit in enumerate(looks)]
    seen.snapshots.append(Snapshot(replica=1, sent_s=2, answered_s=2))

    assert is_found is (foreign_use(seen) is not None)
