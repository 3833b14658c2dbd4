"""When a delivery that failed is tried again. No I/O, and no clock."""

from __future__ import annotations

from typing import Final

# The waits that Standard Webhooks recommends, as the most that each may be. Jittered
# they are half of it on average, which makes 24 hours of the 47.6 here: a receiver that
# is away for a night, or an operator who mends it the next morning, loses nothing.
LONGEST_WAITS_S: Final = (
    5.0,
    5 * 60.0,
    30 * 60.0,
    2 * 3600.0,
    5 * 3600.0,
    10 * 3600.0,
    14 * 3600.0,
    16 * 3600.0,
)


def next_attempt_s(
    attempt: int, random: float, retry_after_s: float | None = None
) -> float | None:
    """
    How long to wait after this attempt, the first being 1; None if it was the last.

    `random` is from 0 to 1. Full jitter: receivers that come back are not met by
    everything they missed at once. Never sooner than the receiver asked for.
    """
    if attempt < 1:
        raise ValueError("attempts are counted from 1")
    if attempt > len(LONGEST_WAITS_S):
        return None
    return max(random * LONGEST_WAITS_S[attempt - 1], retry_after_s or 0.0)
