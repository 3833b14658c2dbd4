"""Signals that end a process, also the first one of a container."""

from __future__ import annotations

import os
import signal
from types import FrameType

_FIRST_PROCESS = 1


def end_by_default(number: signal.Signals) -> None:
    """
    Have a signal end this process at once, as one that nobody catches does.

    The kernel gives the first process of a container no signal that it does not
    handle, so there it needs a handler.
    """
    is_first = os.getpid() == _FIRST_PROCESS
    signal.signal(number, _exit if is_first else signal.SIG_DFL)


def end_by(number: signal.Signals) -> None:
    """End this process as a signal does that nobody catches."""
    end_by_default(number)
    os.kill(os.getpid(), number)


def _exit(number: int, frame: FrameType | None) -> None:
    # As shells tell of a process that a signal has ended.
    os._exit(128 + number)
