"""Hours, days and months in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.plans import QuotaWindow
from policies.windows import Window, window_at

WINDOWS: tuple[QuotaWindow, ...] = get_args(QuotaWindow)
INSTANTS = st.integers(-(10**13), 10**14)  # the years 1653 to 5138


def ms_of(text: str) -> int:
    instant = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return int(instant.timestamp()) * 1000


@pytest.mark.parametrize(
    ("per", "now", "start", "end"),
    [
        ("hour", "2026-11-23T06:59:59", "2026-11-23T06:00", "2026-11-23T07:00"),
        ("day", "2026-12-31T23:59:59", "2026-12-31", "2027-01-01"),
        ("month", "2026-01-31T23:59:59", "2026-01-01", "2026-02-01"),
        ("month", "2026-02-01T00:00:00", "2026-02-01", "2026-03-01"),
        ("month", "2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        ("month", "2100-02-28T23:59:59", "2100-02-01", "2100-03-01"),
        ("month", "2400-02-29T12:00:00", "2400-02-01", "2400-03-01"),
        ("month", "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
    ],
)
def test_window_holds_the_instant(
    per: QuotaWindow, now: str, start: str, end: str
) -> None:
    window = window_at(per, ms_of(now))

    assert (window.start_ms, window.end_ms) == (ms_of(start), ms_of(end))


@pytest.mark.parametrize(
    ("year", "days"),
    [(2026, 28), (2028, 29), (2000, 29), (2100, 28), (2400, 29)],
)
def test_february_has_its_days(year: int, days: int) -> None:
    window = window_at("month", ms_of(f"{year}-02-10"))

    assert window.end_ms - window.start_ms == days * 86_400_000


def test_first_window_is_number_zero() -> None:
    assert window_at("month", 0) == Window(0, 0, 31 * 86_400_000)
    assert window_at("hour", 3_599_999) == Window(0, 0, 3_600_000)


@pytest.mark.parametrize("per", WINDOWS)
@given(now_ms=INSTANTS)
def test_windows_follow_one_another_without_gap(per: QuotaWindow, now_ms: int) -> None:
    window = window_at(per, now_ms)
    following = window_at(per, window.end_ms)

    assert window.start_ms <= now_ms < window.end_ms == following.start_ms
    assert window_at(per, window.end_ms - 1) == window
    assert following.id == window.id + 1


@given(now_ms=INSTANTS)
def test_month_is_the_one_the_standard_library_says(now_ms: int) -> None:
    # Added, because converting the year 1653 from a timestamp is not portable.
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)

    window = window_at("month", now_ms)

    assert window.id == (now.year - 1970) * 12 + now.month - 1
    assert window.start_ms == (first - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        milliseconds=1
    )
