"""
Which faults the simulator can give, and whose turn it is.

Pure: how a fault looks on the wire is `delivery`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from random import Random
from typing import Final

FAULT_MODEL_PREFIX: Final = "simulator/"


class FaultKind(StrEnum):
    """Everything that can go wrong on purpose; the values are the command line's."""

    REFUSE = "refuse"
    STALL = "stall"
    STALL_STREAM = "stall-stream"
    CUT = "cut"
    MALFORMED = "malformed"
    CONTENT_TYPE = "content-type"
    SLOW_HEADERS = "slow-headers"
    RATE_LIMIT = "rate-limit"
    CREDITS = "credits"
    ERROR = "error"
    UNAVAILABLE = "unavailable"
    REDIRECT = "redirect"
    STREAM_ERROR = "stream-error"


# These spoil an answer that was processed; the others keep the request from being
# processed at all, so a retry with the same Idempotency-Key is the first one.
FAULTS_AFTER_PROCESSING: Final = frozenset(
    {
        FaultKind.STALL_STREAM,
        FaultKind.CUT,
        FaultKind.MALFORMED,
        FaultKind.CONTENT_TYPE,
        FaultKind.SLOW_HEADERS,
        FaultKind.STREAM_ERROR,
    }
)

FAULT_MODELS: Final = {FAULT_MODEL_PREFIX + kind.value: kind for kind in FaultKind}


class FaultDraw:
    """A repeatable sequence of faults: the same seed and shares, the same sequence."""

    def __init__(self, shares: Mapping[FaultKind, float], seed: int) -> None:
        # Sorted, so that the order in which shares were written changes nothing.
        self._shares = sorted(shares.items())
        self._random = Random(seed)  # noqa: S311 - repeatable, not secret

    def next(self) -> FaultKind | None:
        if not self._shares:
            return None
        point = self._random.random()
        for kind, share in self._shares:
            point -= share
            if point < 0:
                return kind
        return None
