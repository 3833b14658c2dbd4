"""How long an attempt may take."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """What an attempt may take of the time its call has."""

    connect_s: float
    # Between two reads or writes.
    idle_s: float
    # On the event loop's clock: when the answer has to have begun, and be complete.
    head_by_s: float
    ends_at_s: float
