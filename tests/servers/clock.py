"""
FakeClock: a wall clock that stands still until it is moved, for Redis and Python alike.

A redis-server under libfaketime reads the clock's file at every look at the time, so a
move is seen by the next command. Its monotonic clock goes on: only the date is ours.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Final

# A Monday, early in its month, its day and its hour.
START: Final = datetime(2026, 11, 2, 6, 0, 0, tzinfo=UTC)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LIBRARY: Final = "vendor/libfaketime/src/libfaketime.so.1"


class FakeClock:
    """The time of every server that follows it, and of Python code it is given to."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="gw-clock-"))
        self._file = self._directory / "now"
        self._now_us = 0
        self.travel_to(START.isoformat())

    def __call__(self) -> int:
        return self._now_us

    @property
    def now_us(self) -> int:
        """Microseconds since the epoch."""
        return self._now_us

    @now_us.setter
    def now_us(self, now_us: int) -> None:
        moment = _EPOCH + timedelta(microseconds=now_us)
        # libfaketime goes through a float and truncates: with half a microsecond more
        # it lands in the middle of the right one, not just below it.
        self._write(moment.strftime("%Y-%m-%d %H:%M:%S.%f") + "5\n")
        self._now_us = now_us

    def _write(self, text: str) -> None:
        following = self._file.with_suffix(".next")
        following.write_text(text, encoding="ascii")
        # Renamed, so that a server never reads half a date.
        following.replace(self._file)

    def advance(self, ms: int) -> None:
        self.now_us += ms * 1000

    def travel_to(self, instant: str) -> None:
        """Go to an instant in ISO 8601, in UTC unless it says otherwise."""
        moment = datetime.fromisoformat(instant)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        self.now_us = (moment - _EPOCH) // timedelta(microseconds=1)

    def run_free(self) -> None:
        """Let the servers see the true time from now on."""
        self._write("+0\n")

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process live by this clock."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "TZ": "UTC",
        }

    def close(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)


def library() -> Path | None:
    """libfaketime's shared object; None where its wheel is not to be had."""
    found = find_spec("libfaketime")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / _LIBRARY
    return path if path.exists() else None
