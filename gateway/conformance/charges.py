"""What each attempt certainly and possibly cost one limit. Pure."""

from __future__ import annotations

from typing import Final

from gateway.conformance.buckets import Bucket, Charge
from gateway.conformance.observations import Attempt, Evidence, LimitSeen

# Settlement runs beside the answer: its client may know the end first. At half, a busy
# store's ordinary delay would be called an error; at double, real refusals are excused.
SETTLE_GRACE_S: Final = 0.25
# A dropped connection has to be noticed before its place can come back.
RELEASE_GRACE_S: Final = 2.0


def bucket_of(limit: LimitSeen) -> Bucket:
    return Bucket(limit.capacity, limit.refill_per_s)


def charges_of(limit: LimitSeen, evidence: Evidence) -> list[Charge]:
    """Every charge to this limit, what was used before the run first."""
    charges = _charges_before(limit, evidence)
    for attempt in evidence.attempts:
        if not attempt.is_limited:
            charges += (
                [_request_charge(attempt)]
                if limit.of == "requests"
                else _token_charges(attempt)
            )
    return charges


def _charges_before(limit: LimitSeen, evidence: Evidence) -> list[Charge]:
    looks = evidence.rounds[0] if evidence.rounds else (evidence.first,)
    used = [seen.used for look in looks if (seen := look.find(limit.dimension))]
    if not used:
        return []
    # A unit begun is told as used; and where replicas disagree, the least is certain.
    certain = max(0, min(used) - (1 if limit.kind == "rate" else 0))
    return [
        Charge(
            earliest_s=min(look.sent_s for look in looks),
            latest_s=max(look.answered_s for look in looks),
            certain=certain,
            possible=max(used),
        )
    ]


def _request_charge(attempt: Attempt) -> Charge:
    return Charge(
        earliest_s=attempt.sent_s,
        latest_s=attempt.answered_s,
        certain=1 if attempt.outcome == "admitted" else 0,
        possible=1,
    )


def _token_charges(attempt: Attempt) -> list[Charge]:
    reserve, total = attempt.reserve_tokens, attempt.total_tokens
    settled_s = attempt.ended_s + SETTLE_GRACE_S
    is_known = attempt.outcome == "admitted" and total is not None
    used = min(total or 0, reserve) if is_known else reserve
    charges = [
        Charge(
            earliest_s=attempt.sent_s,
            latest_s=attempt.answered_s,
            certain=used if is_known else 0,
            possible=reserve,
            settled_s=settled_s,
            settled=used,
        )
    ]
    if total is not None and total > reserve:
        # The top-up comes with the settlement, some time after admission.
        top_up = Charge(
            earliest_s=attempt.sent_s,
            latest_s=settled_s,
            certain=0,
            possible=total - reserve,
        )
        charges.append(top_up)
    return charges


def released_s(attempt: Attempt) -> float:
    """Until when the attempt may have held a lease."""
    is_read_to_end = attempt.total_tokens is not None
    grace_s = SETTLE_GRACE_S if is_read_to_end else RELEASE_GRACE_S
    return attempt.ended_s + grace_s


def most_held(attempts: list[Attempt], at_s: float) -> int:
    """How many leases of ours may have been held at an instant."""
    return sum(
        attempt.sent_s <= at_s <= released_s(attempt)
        for attempt in attempts
        if not attempt.is_limited
    )


def is_quiet_since(attempts: list[Attempt], instant_s: float) -> bool:
    """Whether nothing that might flow back was unsettled at or after an instant."""
    return all(
        attempt.is_limited or attempt.ended_s + SETTLE_GRACE_S < instant_s
        for attempt in attempts
    )
