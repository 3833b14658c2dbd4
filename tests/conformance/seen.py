"""Observations by hand, for tables: what a run might have seen."""

from __future__ import annotations

from typing import Any

from gateway.conformance.observations import (
    Attempt,
    Evidence,
    LimitSeen,
    Snapshot,
)


def rate(**fields: Any) -> LimitSeen:
    """10 requests at once, one more each second."""
    defaults: dict[str, Any] = {
        "dimension": "requests-per-minute",
        "kind": "rate",
        "of": "requests",
        "per": "minute",
        "limit": 60,
        "capacity": 10,
        "used": 0,
        "remaining": 10,
        "resets_at": 1000,
    }
    return LimitSeen(**(defaults | fields))


def quota(used: int = 0, **fields: Any) -> LimitSeen:
    """500 tokens a day."""
    defaults: dict[str, Any] = {
        "dimension": "tokens-per-calendar-day",
        "kind": "quota",
        "of": "tokens",
        "per": "day",
        "limit": 500,
        "capacity": 500,
        "used": used,
        "remaining": 500 - used,
        "resets_at": 1000,
    }
    return LimitSeen(**(defaults | fields))


def concurrency(used: int = 0, limit: int = 3) -> LimitSeen:
    return LimitSeen(
        dimension="concurrency",
        kind="concurrency",
        of="leases",
        limit=limit,
        capacity=limit,
        used=used,
        remaining=limit - used,
    )


def look(
    *limits: LimitSeen, at: float = 0.0, took: float = 0.0, replica: int = 0
) -> Snapshot:
    return Snapshot(replica=replica, sent_s=at, answered_s=at + took, limits=limits)


def attempt(
    sent: float, answered: float | None = None, outcome: Any = "admitted", **fields: Any
) -> Attempt:
    """An answer of 10 tokens, 12 reserved, in no time unless said otherwise."""
    answered = sent if answered is None else answered
    defaults: dict[str, Any] = {
        "replica": 0,
        "ended_s": answered,
        "reserve_tokens": 12,
        "total_tokens": 10 if outcome == "admitted" else None,
    }
    return Attempt(
        sent_s=sent, answered_s=answered, outcome=outcome, **(defaults | fields)
    )


def refused(limit: LimitSeen, sent: float, answered: float, **fields: Any) -> Attempt:
    """A refusal that names this limit."""
    fields = {"requested": 1, "dimension": limit.dimension, **fields}
    return attempt(sent, answered, limit.kind, **fields)


def evidence(limit: LimitSeen, *attempts: Attempt, **fields: Any) -> Evidence:
    first = look(limit, at=-1.0)
    return Evidence(
        replicas=fields.pop("replicas", 1),
        first=first,
        attempts=list(attempts),
        **fields,
    )
