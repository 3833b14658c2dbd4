"""
The gateway with metrics that count nothing: what do they cost?

`python -m benchmarks.without_metrics serve ...` is `llmtune-gateway serve ...`, in
which nothing is counted: what the core calls is there, and does nothing.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from typing import Any

from gateway.cli import main
from gateway.telemetry.instruments import Counter, Gauge, Histogram
from gateway.telemetry.metrics import Telemetry
from gateway.telemetry.noting import Noted


def _nothing(*_: Any, **__: Any) -> None:
    """What every update does here."""


def _mute(kind: type, *names: str, by: Callable[..., None] = _nothing) -> None:
    for name in names:
        setattr(kind, name, by)


def _note_nothing(noted: Noted[Any], *_: Any) -> None:
    noted.events = []
    # In C, as what it stands for is, so that nothing but the keeping is missing.
    noted.note = collections.deque[Any](maxlen=0).append


if __name__ == "__main__":
    _mute(Counter, "inc", "add", "count")
    _mute(Gauge, "set")
    _mute(Histogram, "observe", "observe_all")
    # Those that do more than hand on.
    _mute(Telemetry, "request", "added", "first_token", "streamed")
    _mute(Noted, "__init__", by=_note_nothing)
    sys.exit(main())
