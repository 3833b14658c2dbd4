"""The arithmetic of the benchmarks, and what is read from wrk and from /proc."""

from __future__ import annotations

import math

import pytest

from benchmarks.figures import Spread, percentile, ratio, spread
from benchmarks.load_rate import is_complete
from benchmarks.processes import parse_core, parse_stat
from benchmarks.report import COLUMNS
from benchmarks.workloads import WORKLOAD_NAMES, joined
from benchmarks.wrk import LoadFailed, parse_wrk

WRK_OUTPUT = (
    "Running 4s test @ http://127.0.0.1:8080/v1/chat/completions\n"
    "  1 threads and 32 connections\n"
    "figures requests=24404 duration_us=4001000 p50_us=5120 p99_us=12500"
    " status=3 socket=1 timeout=2\n"
)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        pytest.param(0.0, 1, id="least"),
        pytest.param(0.5, 50, id="median"),
        pytest.param(0.99, 99, id="p99"),
        pytest.param(1.0, 100, id="greatest"),
    ],
)
def test_percentile_is_a_value_that_occurred(share: float, expected: int) -> None:
    assert expected == percentile(list(range(1, 101)), share)


def test_percentile_of_nothing_is_not_a_number() -> None:
    assert math.isnan(percentile([], 0.5))


def test_spread_is_median_least_and_greatest() -> None:
    assert Spread(2, 1, 9) == spread([9, 1, 2])


def test_spread_leaves_out_what_was_not_measured() -> None:
    assert Spread(3, 1, 5) == spread([1, math.nan, 5])
    assert spread([math.nan]) is None


def test_ratio_needs_both_figures() -> None:
    assert 2 == ratio(4, 2)
    assert ratio(None, 2) is None
    assert ratio(4, None) is None
    assert ratio(4, 0) is None


def test_wrk_output_gives_its_figures() -> None:
    figures = parse_wrk(WRK_OUTPUT)

    assert 24404 == figures.requests
    assert pytest.approx(6099.5, abs=0.1) == figures.per_s
    assert (5.12, 12.5) == (figures.p50_ms, figures.p99_ms)
    assert (3, 3) == (figures.refused, figures.broken)


def test_wrk_output_without_figures_is_a_failure() -> None:
    with pytest.raises(LoadFailed, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:9 Connection refused\n")


def test_process_stat_counts_user_system_and_reaped_time() -> None:
    fields = ["S", "7", *["0"] * 9, "100", "50", "20", "30", "0"]

    stat = parse_stat(f"42 (odd (name) here) {' '.join(fields)}\n")

    assert 7 == stat.parent
    assert pytest.approx(2.0) == stat.cpu_s


def test_core_is_busy_with_all_but_idle_and_disk_waits() -> None:
    text = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 20 30 1000 500 1 2 37 0 0\n"

    assert pytest.approx(1.0) == parse_core(text, 0)


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-le", False, id="in-the-head"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False, id="in-the-body"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True, id="length"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n2\r\n{}\r\n", False, id="in-chunks"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True, id="last-chunk"
        ),
    ],
)
def test_answer_is_complete_at_its_end(received: bytes, expected: bool) -> None:
    assert expected is is_complete(received)


def test_every_workload_has_a_table() -> None:
    assert set(COLUMNS) == set(WORKLOAD_NAMES)


def test_slices_are_joined_by_their_medians_and_lose_no_error() -> None:
    slices = [{"per_s": n, "errors": e} for n, e in ((9.0, 1), (1.0, 0), (5.0, 2))]
    assert joined(slices) == {"per_s": 5.0, "errors": 3}
