"""
The calendar windows of quotas: hours, days and months in UTC.

Integer arithmetic only and no library's calendar, so that the ledger in Lua can count
the same. Leap seconds do not exist in epoch time.
"""

from __future__ import annotations

from typing import Final

import msgspec

from policies.plans import QuotaWindow

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS

_DAYS_PER_ERA: Final = 146_097  # 400 years, after which the calendar repeats
_EPOCH_IN_ERAS: Final = 719_468  # days from 0000-03-01 to 1970-01-01


class Window(msgspec.Struct, frozen=True):
    """One hour, day or month; `end_ms` already belongs to the next."""

    # Whole hours, days or months since 1970, so ids of one kind follow one another.
    id: int
    start_ms: int
    end_ms: int


def window_at(per: QuotaWindow, now_ms: int) -> Window:
    """The window that holds this instant."""
    if per == "month":
        return month_window(month_of_day(now_ms // DAY_MS))
    length_ms = HOUR_MS if per == "hour" else DAY_MS
    number = now_ms // length_ms
    return Window(number, number * length_ms, (number + 1) * length_ms)


def month_window(month: int) -> Window:
    """A month by its number since January 1970."""
    start = first_day_of_month(month) * DAY_MS
    return Window(month, start, first_day_of_month(month + 1) * DAY_MS)


def month_of_day(day: int) -> int:
    """
    The month, counted from January 1970, of a day counted from 1970-01-01.

    Howard Hinnant's civil_from_days ("chrono-Compatible Low-Level Date Algorithms").
    Its years begin in March, which puts the leap day last, where it disturbs nothing.
    """
    era, day_of_era = divmod(day + _EPOCH_IN_ERAS, _DAYS_PER_ERA)
    year_of_era = (
        day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (
        365 * year_of_era + year_of_era // 4 - year_of_era // 100
    )
    # From March, month lengths repeat as 31 30 31 30 31: 153 days in five months.
    months_from_march = (5 * day_of_year + 2) // 153
    return (era * 400 + year_of_era - 1970) * 12 + 2 + months_from_march


def first_day_of_month(month: int) -> int:
    """The day, counted from 1970-01-01, on which a month begins: the way back."""
    year, months_from_march = divmod(month + 1970 * 12 - 2, 12)
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * months_from_march + 2) // 5
    day_of_era = 365 * year_of_era + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * _DAYS_PER_ERA + day_of_era - _EPOCH_IN_ERAS
