"""
The gateway with metrics that count nothing: what do they cost?

`python -m benchmarks.without_metrics serve ...` is `llmtune-gateway serve ...`, in
which nothing is counted: what the core calls is there, and does nothing.
"""

from __future__ import annotations

import sys
from typing import Any

from gateway.cli import main
from gateway.telemetry.instruments import Counter, Gauge, Histogram
from gateway.telemetry.metrics import Telemetry


def _nothing(*_: Any, **__: Any) -> None:
    """What every update does here."""


def _mute(kind: type, *names: str) -> None:
    for name in names:
        setattr(kind, name, _nothing)


if __name__ == "__main__":
    _mute(Counter, "inc", "add")
    _mute(Gauge, "set", "__enter__", "__exit__")
    _mute(Histogram, "observe")
    # Those that do more than hand on.
    _mute(Telemetry, "request", "added", "first_token", "streamed", "attempt")
    _mute(Telemetry, "admitted", "rejected", "settled", "store_answered")
    sys.exit(main())
