"""
What of a plan one replica of several may admit by itself while the store is away.

Each enforces limit // replicas of every limit, at least 1 where there is a limit at
all, and of what was used when the store was last heard only its part of the rest.
Values only: nothing here counts, asks or knows the time. `docs/store-failure.md`
derives what that bounds.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from policies.ledger import LimitState
from policies.plans import Concurrency, KeyLimits, Limit, Plan, Quota, Rate


# As many as there are plans and workspaces' overrides of them in use. The object itself
# matters: a ledger that is given the same one again has nothing to follow.
@lru_cache(maxsize=4096)
def share_of(plan: Plan, replicas: int) -> Plan:
    """The plan that one of so many replicas enforces by itself."""
    return msgspec.structs.replace(
        plan,
        concurrency=_places(plan.concurrency, replicas),
        rates=tuple(_rate(rate, replicas) for rate in plan.rates),
        quotas=tuple(_quota(quota, replicas) for quota in plan.quotas),
    )


@lru_cache(maxsize=4096)
def share_of_key(limits: KeyLimits, replicas: int) -> KeyLimits:
    """The same for the limits of one key."""
    return KeyLimits(
        concurrency=_places(limits.concurrency, replicas),
        rates=tuple(_rate(rate, replicas) for rate in limits.rates),
        quotas=tuple(_quota(quota, replicas) for quota in limits.quotas),
    )


def part_of(units: int, replicas: int) -> int:
    """One replica's part; nobody is locked out who has anything left."""
    return max(1, units // replicas) if units > 0 else units // replicas


def capacity_of(limit: Limit) -> int:
    """The most that a limit admits at once."""
    return limit.capacity if isinstance(limit, Rate) else limit.limit


def used_after(state: LimitState, more: int, age_ms: int) -> int:
    """
    What is still used of a limit that stood like this so long ago.

    `more` is what became known since then: top-ups, less the refunds.
    """
    match state.limit:
        case Concurrency():
            return 0
        case Quota():
            # Another window has begun, in which nothing is known to be used.
            return 0 if age_ms >= state.reset_after_ms else max(0, state.used + more)
        case Rate() as rate:
            refilled = age_ms * rate.limit // (rate.period_s * 1000)
            return max(0, state.used + more - refilled)


def used_of_share(limit: Limit, used: int, replicas: int) -> int:
    """What a replica's share has to stand at, so that its part of the rest is left."""
    left = part_of(capacity_of(limit) - used, replicas)
    return max(0, part_of(capacity_of(limit), replicas) - left)


def _places(limit: Concurrency | None, replicas: int) -> Concurrency | None:
    if limit is None:
        return None
    return msgspec.structs.replace(limit, limit=part_of(limit.limit, replicas))


def _quota(limit: Quota, replicas: int) -> Quota:
    return msgspec.structs.replace(limit, limit=part_of(limit.limit, replicas))


def _rate(limit: Rate, replicas: int) -> Rate:
    return msgspec.structs.replace(
        limit,
        limit=part_of(limit.limit, replicas),
        burst=None if limit.burst is None else part_of(limit.burst, replicas),
    )
