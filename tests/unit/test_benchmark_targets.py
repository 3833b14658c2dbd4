"""What a run of the benchmarks must show, judged from figures."""

from __future__ import annotations

import pytest

from benchmarks.results import Results, to_json, with_added
from benchmarks.run import Measured, Plan
from benchmarks.targets import TARGETS, Judged, judge, outcome_of

FIRST = TARGETS[0].says


def results_of(*measured: Measured) -> Results:
    plan = Plan(workloads=("whole",), gateways=())
    return Results({}, {}, plan, with_added(measured), [])


def whole(round_: int, gateway: str, **figures: float) -> Measured:
    return Measured(round_, "whole", "whole-32", gateway, {"errors": 0, **figures})


def judged_of(results: Results, says: str = FIRST) -> Judged:
    return next(each for each in judge(results) if each.says == says)


@pytest.mark.parametrize(
    ("measured", "is_floor", "expected"),
    [
        pytest.param(1.2, True, "ok", id="floor-reached"),
        pytest.param(1.19, True, "MISSED", id="below-the-floor"),
        pytest.param(1.2, False, "ok", id="ceiling-reached"),
        pytest.param(1.21, False, "MISSED", id="above-the-ceiling"),
        pytest.param(None, True, "not measured", id="not-measured"),
    ],
)
def test_outcome_compares_with_the_bound(
    measured: float | None, is_floor: bool, expected: str
) -> None:
    assert expected == outcome_of(measured, 1.2, is_floor=is_floor)


def test_target_judges_the_ratio_of_the_medians() -> None:
    judged = judged_of(
        results_of(
            whole(1, "ours-redis", per_s=6000),
            whole(1, "ferrogw", per_s=5000),
            whole(2, "ours-redis", per_s=3000),
            whole(2, "ferrogw", per_s=1500),
            whole(3, "ours-redis", per_s=9000),
            whole(3, "ferrogw", per_s=6000),
        )
    )

    assert "ok" == judged.outcome
    assert pytest.approx(1.2) == judged.measured
    assert pytest.approx(1.5) == judged.by_round


def test_round_with_errors_does_not_count() -> None:
    judged = judged_of(
        results_of(
            whole(1, "ours-redis", per_s=90_000, errors=7),
            whole(1, "ferrogw", per_s=5000),
            whole(2, "ours-redis", per_s=6500),
            whole(2, "ferrogw", per_s=5000),
        )
    )

    assert pytest.approx(1.3) == judged.measured
    assert pytest.approx(1.3) == judged.by_round


def test_errors_in_every_round_are_a_missed_target() -> None:
    judged = judged_of(
        results_of(
            whole(1, "ours-redis", per_s=9000, errors=1),
            whole(1, "ferrogw", per_s=5000),
        )
    )

    assert "MISSED" == judged.outcome
    assert judged.measured is None


def test_peer_that_was_left_out_leaves_its_target_open() -> None:
    outcome = judged_of(results_of(whole(1, "ours-redis", per_s=6000))).outcome

    assert "not measured" == outcome


def test_added_latency_is_above_the_same_rounds_direct() -> None:
    results = results_of(
        whole(1, "direct", p50_ms=0.5),
        whole(1, "ferrogw", p50_ms=0.75),
        whole(2, "direct", p50_ms=1.5),
        whole(2, "ferrogw", p50_ms=2.5),
    )

    added = [results.value(n, "whole-32", "ferrogw", "added_p50_ms") for n in (1, 2)]

    assert [0.25, 1.0] == added


def test_results_file_holds_raw_figures_medians_and_targets() -> None:
    results = results_of(whole(1, "ours-redis", per_s=6000))

    text = to_json(results, judge(results)).decode()

    assert '"measured"' in text
    assert '"medians"' in text
    assert FIRST in text
