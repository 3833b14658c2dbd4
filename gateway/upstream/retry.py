"""
When a failed attempt may be repeated, and after which wait. Pure.

Only if the upstream cannot have begun: nothing was sent, or it said 429 or 503 before
starting. Clients retry by themselves, so one retry here is for the blip that would
otherwise reach them, not for outages.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import GatewayError, UpstreamOverloaded, UpstreamRateLimited

# A connection refused by a restarting upstream is usually accepted a moment later.
# Twice as long is felt by a person; half as long hits the same moment again.
BASE_WAIT_S: Final = 0.2

# Waiting longer than this holds the caller's lease and connection for what its own
# retry does better, with the true wait in hand.
LONGEST_WAIT_S: Final = 2.0


def retry_wait_s(
    error: GatewayError, *, attempt: int, max_attempts: int, jitter: float
) -> float | None:
    """
    The seconds to wait before the next attempt, or None for no retry.

    `attempt` counts from 1; `jitter` is a random number from 0 to 1, which spreads the
    retries of callers that failed together.
    """
    if attempt >= max_attempts:
        return None
    backoff_s = BASE_WAIT_S * 2.0 ** (attempt - 1) * (0.5 + jitter)
    if isinstance(error, UpstreamRateLimited | UpstreamOverloaded):
        if error.retry_after_ms is not None:
            wait_s = error.retry_after_ms / 1000
            # Later than asked by up to a tenth, never earlier.
            wait_s *= 1 + 0.1 * jitter
            return wait_s if wait_s <= LONGEST_WAIT_S else None
        # A rate limit without a wait gives no hope that a moment helps.
        return None if isinstance(error, UpstreamRateLimited) else backoff_s
    return backoff_s
