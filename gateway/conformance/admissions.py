"""
Judges what was admitted and refused: nothing too much, nothing too little. Pure.

Over-admission is what no choice of instants within the observed intervals explains;
under-admission is a refusal that none justifies.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from gateway.conformance.buckets import (
    EPSILON,
    most_used_between,
    peak_overlap,
    peak_use,
)
from gateway.conformance.charges import bucket_of, charges_of, most_held
from gateway.conformance.findings import (
    Check,
    Finding,
    Skip,
    judged,
    not_applicable,
    skipped,
)
from gateway.conformance.observations import (
    UNANSWERED,
    Attempt,
    Evidence,
    LimitSeen,
    StreamSeen,
    is_same_window,
)


def judge_admissions(evidence: Evidence) -> Iterator[Finding]:
    """Over- and under-admission of every limit of the plan."""
    for limit in evidence.first.limits:
        over: Check = "over-admission"
        under: Check = "under-admission"
        if limit.shadow:
            why_not = "in shadow: counted, never enforced"
            yield not_applicable(over, limit.dimension, why_not)
            yield not_applicable(under, limit.dimension, why_not)
        elif (why := _changed(limit, evidence)) is not None:
            yield skipped(over, limit.dimension, why)
            yield skipped(under, limit.dimension, why)
        elif limit.kind == "concurrency":
            yield judge_overlap(limit, evidence)
            yield judge_concurrency_refusals(limit, evidence)
        else:
            yield judge_excess(limit, evidence)
            yield judge_refusals(limit, evidence)


def _changed(limit: LimitSeen, evidence: Evidence) -> Skip | None:
    last = evidence.snapshots[-1] if evidence.snapshots else evidence.first
    now = last.find(limit.dimension)
    if now is None or now.limit != limit.limit or now.capacity != limit.capacity:
        return Skip("changed-meanwhile", "the plan changed during the run")
    if limit.kind == "quota" and not is_same_window(limit, now):
        return Skip("changed-meanwhile", "its window ended during the run")
    return None


def refusals_of(limit: LimitSeen, evidence: Evidence) -> list[Attempt]:
    """The rejections that name this limit."""
    return [
        attempt
        for attempt in evidence.attempts
        if attempt.dimension == limit.dimension and attempt.outcome == limit.kind
    ]


def judge_excess(limit: LimitSeen, evidence: Evidence) -> Finding:
    """Units admitted beyond capacity and refill, in the worst window of the run."""
    charges = charges_of(limit, evidence)
    peak = peak_use(bucket_of(limit), charges)
    over = max(0, ceil(peak - limit.capacity - EPSILON))
    taken = int(sum(charge.certain for charge in charges[1:]))
    refusals = refusals_of(limit, evidence)
    measured = f"{taken:,} {limit.of} taken, {len(refusals)} refusals"
    measured += f", peak {peak:,.1f} of {limit.capacity:,}"
    if not over and not refusals:
        why = _why_not_reached(limit, evidence)
        return skipped("over-admission", limit.dimension, why, measured)
    return judged(
        "over-admission",
        limit.dimension,
        measured,
        over,
        bound="0",
        is_kept=over == 0,
        reason=f"{over:,} {limit.of} more than {limit.capacity:,} and its refill",
    )


def judge_refusals(limit: LimitSeen, evidence: Evidence) -> Finding:
    """Refusals although the limit must have had room."""
    refusals = refusals_of(limit, evidence)
    if not refusals:
        why = _why_not_reached(limit, evidence)
        return skipped("under-admission", limit.dimension, why)
    charges = charges_of(limit, evidence)
    bucket = bucket_of(limit)
    wrong, worst = 0, 0.0
    for refusal in refusals:
        most = most_used_between(bucket, charges, refusal.sent_s, refusal.answered_s)
        room = bucket.capacity - most - (refusal.requested or 1)
        wrong += room >= EPSILON
        worst = max(worst, room)
    return judged(
        "under-admission",
        limit.dimension,
        f"{len(refusals)} refusals looked into",
        wrong,
        bound="0",
        is_kept=wrong == 0,
        reason=f"{wrong} refused with room left, once with {worst:,.1f} {limit.of}",
    )


def judge_overlap(limit: LimitSeen, evidence: Evidence) -> Finding:
    """Streams that were provably open at once."""
    peak = peak_overlap(provably_open(evidence.streams, evidence.margin_s))
    refusals = len(refusals_of(limit, evidence))
    measured = f"{peak} streams provably at once, {refusals} refusals"
    over = max(0, peak - limit.limit)
    if not over and (not refusals or peak < limit.limit):
        why = _why_not_reached(limit, evidence)
        if refusals:
            why = Skip("short-answers", "the streams end too soon to be counted")
        return skipped("over-admission", limit.dimension, why, measured)
    return judged(
        "over-admission",
        limit.dimension,
        measured,
        over,
        bound="0",
        is_kept=over == 0,
        reason=f"{peak} at once where {limit.limit} may be",
    )


def provably_open(
    streams: list[StreamSeen], margin_s: float
) -> list[tuple[float, float]]:
    """
    When each stream was open for certain, by our clock.

    An event was on its way for a while, so the lease is known to have been held only
    until that long before the last event that was not the end.
    """
    return [(stream.opened_s, stream.alive_s - margin_s) for stream in streams]


def judge_concurrency_refusals(limit: LimitSeen, evidence: Evidence) -> Finding:
    """Refusals although fewer leases than the limit can have been held."""
    refusals = refusals_of(limit, evidence)
    if not refusals:
        why = _why_not_reached(limit, evidence)
        return skipped("under-admission", limit.dimension, why)
    wrong = sum(not _is_explained(limit, refusal, evidence) for refusal in refusals)
    return judged(
        "under-admission",
        limit.dimension,
        f"{len(refusals)} refusals looked into",
        wrong,
        bound="0",
        is_kept=wrong == 0,
        reason=f"{wrong} refused while places were free",
    )


def _is_explained(limit: LimitSeen, refusal: Attempt, evidence: Evidence) -> bool:
    from_s, until_s = refusal.sent_s, refusal.answered_s
    begins = (a.sent_s for a in evidence.attempts if from_s < a.sent_s <= until_s)
    attempts = evidence.attempts
    return any(most_held(attempts, at) >= limit.limit for at in (from_s, *begins))


def _why_not_reached(limit: LimitSeen, evidence: Evidence) -> Skip:
    if limit.dimension in evidence.untried:
        return evidence.untried[limit.dimension]
    others = {a.dimension for a in evidence.attempts if a.dimension is not None}
    others.discard(limit.dimension)
    if others:
        names = ", ".join(sorted(others))
        return Skip("hidden-by-another-limit", f"never reached: {names} refused first")
    failed = sum(a.outcome in UNANSWERED for a in evidence.attempts)
    if failed:
        return Skip("failed-requests", f"never reached: {failed} requests failed")
    return Skip("not-reached", "never reached")
