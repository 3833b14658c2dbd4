"""Judges what was told: waits, what is left, previews, usage, other replicas. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import ceil
from typing import Final

from gateway.conformance.buckets import EPSILON, least_used, most_used_between
from gateway.conformance.charges import (
    RELEASE_GRACE_S,
    SETTLE_GRACE_S,
    bucket_of,
    charges_of,
    released_s,
)
from gateway.conformance.findings import Check, Finding, judged, skipped
from gateway.conformance.observations import (
    DropTrial,
    Evidence,
    LimitSeen,
    PreviewTrial,
    RemainingTrial,
    SettlementTrial,
    Snapshot,
    WaitTrial,
    is_same_window,
)

TRUTH: Final[Check] = "header-truth"


def judge_leaks(evidence: Evidence) -> Iterator[Finding]:
    """Places that dropped streams did not give back in time."""
    check: Check = "leaked-leases"
    drops = [trial for trial in evidence.drops if trial.dropped]
    if not drops:
        why = "no stream was still open when it was dropped; name a slower --model"
        yield skipped(check, "concurrency", evidence.untried.get(check, why))
        return
    yield from (_judge_drop(trial) for trial in drops)


def _judge_drop(trial: DropTrial) -> Finding:
    leaked = max(trial.still_held, trial.refused_again)
    took_s = trial.free_s - trial.dropped_s if trial.free_s is not None else None
    free = f"free after {took_s * 1000:.0f} ms" if took_s is not None else "not free"
    is_late = took_s is None or took_s > RELEASE_GRACE_S
    return judged(
        "leaked-leases",
        "concurrency",
        f"{trial.dropped} streams dropped, {free}, {trial.reopened} opened again",
        leaked,
        bound=f"0 within {RELEASE_GRACE_S:g} s",
        is_kept=leaked == 0 and not is_late,
        reason=f"{trial.still_held} places still held,"
        f" {trial.refused_again} refused again",
    )


def judge_headers(evidence: Evidence) -> Iterator[Finding]:
    """Whether the figures clients are told come true."""
    untried = evidence.untried
    waits = [is_wait_kept(trial) for trial in evidence.waits]
    why = "no rate refused anything with a short wait"
    yield _kept("retry-after-ms", waits, untried.get("retry-after-ms", why))
    left = [is_remaining_true(trial) for trial in evidence.remainings]
    why = "no request was made in quiet"
    yield _kept("x-ratelimit-remaining", left, untried.get(TRUTH, why))
    previews = [is_preview_kept(trial) for trial in evidence.previews]
    yield _kept("preview", previews, untried.get("preview", why))


def _kept(subject: str, outcomes: list[bool | None], why_none: str) -> Finding:
    decided = [outcome for outcome in outcomes if outcome is not None]
    if not decided:
        return skipped(TRUTH, subject, why_none)
    kept = sum(decided)
    return judged(
        TRUTH,
        subject,
        f"{kept} of {len(decided)} promises kept",
        round(kept / len(decided), 3),
        bound="1",
        is_kept=kept == len(decided),
        reason=f"{len(decided) - kept} broken",
    )


def is_wait_kept(trial: WaitTrial) -> bool | None:
    """True to its wait: not before, and then; None where that cannot be told."""
    told_ms = trial.rejection.retry_after_ms
    if told_ms is None:
        return False
    early, late = trial.early, trial.late
    if early is not None and early.outcome == "admitted":
        # Rounded up to a millisecond when told; and it was decided after it was sent.
        due_s = trial.rejection.sent_s + (told_ms - 1) / 1000
        return False if early.answered_s < due_s else None
    if late.outcome == "admitted":
        return True
    return False if late.outcome == "rate" else None


def is_remaining_true(trial: RemainingTrial) -> bool | None:
    """Whether what an answer says is left is what was left, less its own charge."""
    checked = []
    for unit, said in trial.attempt.remaining.items():
        units = 1 if unit == "requests" else trial.attempt.reserve_tokens
        span_s = trial.attempt.answered_s - trial.before.sent_s
        ranges = [
            _left_after(limit, units, span_s)
            for limit in trial.before.enforced
            if limit.of == unit
        ]
        if ranges:
            # The header has room for one limit: the one with the least left.
            least = min(low for low, _ in ranges)
            most = min(high for _, high in ranges)
            checked.append(least <= said <= most)
    return all(checked) if checked else None


def _left_after(limit: LimitSeen, units: int, span_s: float) -> tuple[int, int]:
    left = limit.capacity - limit.used - units
    refilled = limit.refill_per_s * span_s
    # A unit begun counts as used, so up to one more may have been there.
    most = left + (ceil(refilled) + 1 if refilled else 0)
    return max(0, left), max(0, min(most, limit.capacity - units))


def is_preview_kept(trial: PreviewTrial) -> bool | None:
    """Whether the request fared as its preview said."""
    preview, attempt = trial.preview, trial.attempt
    if attempt.outcome not in ("admitted", "rate", "quota", "concurrency", "too_large"):
        return None
    if preview.would_pass == (attempt.outcome == "admitted"):
        return True
    if preview.would_pass:
        return False
    if preview.retry_after_ms is None or not trial.is_quiet:
        return None
    due_s = preview.sent_s + (preview.retry_after_ms - 1) / 1000
    return False if attempt.answered_s < due_s else None


def judge_settlement(evidence: Evidence) -> Iterator[Finding]:
    """Whether what is charged is what the answers said they used."""
    for limit in evidence.first.enforced:
        if limit.kind == "quota":
            yield _judge_quota_use(limit, evidence)
        elif limit.kind == "rate":
            yield _judge_rate_use(limit, evidence)


def _judge_quota_use(limit: LimitSeen, evidence: Evidence) -> Finding:
    trials = [trial for trial in evidence.settlements if trial.attempts]
    errors = [error for t in trials if (error := quota_error(limit, t)) is not None]
    if not errors:
        why = "no answers were read in quiet, or they reported no usage"
        why = evidence.untried.get("settlement", why)
        return skipped("settlement", limit.dimension, why)
    answers = sum(len(trial.attempts) for trial in trials)
    worst = max(errors, key=abs)
    is_settled = all(trial.is_settled for trial in trials)
    return judged(
        "settlement",
        limit.dimension,
        f"{answers} answers, error {worst:+,} {limit.of}",
        worst,
        bound="0",
        is_kept=worst == 0 and is_settled,
        reason=f"charged {worst:+,} {limit.of} against what the answers reported"
        + ("" if is_settled else "; reservations still stood"),
    )


def quota_error(limit: LimitSeen, trial: SettlementTrial) -> int | None:
    """What was charged beyond what was reported; None if one is not known."""
    before = trial.before.find(limit.dimension)
    after = trial.after.find(limit.dimension)
    reported = [
        1 if limit.of == "requests" else attempt.total_tokens
        for attempt in trial.attempts
        if attempt.outcome == "admitted"
    ]
    known = [units for units in reported if units is not None]
    if before is None or after is None or len(known) < len(trial.attempts):
        return None
    if not is_same_window(before, after):
        return None
    return after.used - before.used - sum(known)


def _judge_rate_use(limit: LimitSeen, evidence: Evidence) -> Finding:
    charges = charges_of(limit, evidence)
    bucket = bucket_of(limit)
    worst, widths = 0, list[int]()
    looks = [look for look in evidence.snapshots if _is_quiet(look, evidence)]
    for look in looks:
        seen = look.find(limit.dimension)
        if seen is None:
            continue
        since_s = look.answered_s - look.sent_s
        least = least_used(bucket, charges, look.sent_s)
        low = int(max(0.0, least - bucket.refill_per_s * since_s) + EPSILON)
        high = ceil(
            most_used_between(bucket, charges, look.sent_s, look.answered_s) - EPSILON
        )
        worst = max(worst, low - seen.used, seen.used - high)
        if low > 0:
            widths.append(high - low)
    if not widths and not worst:
        why = "it refills before it can be looked at"
        return skipped("settlement", limit.dimension, why)
    known = min(widths, default=0)
    return judged(
        "settlement",
        limit.dimension,
        f"{len(looks)} looks, error {worst:,} {limit.of}, known to ±{known:,}",
        worst,
        bound="0",
        is_kept=worst == 0,
        reason=f"`used` is {worst:,} {limit.of} off what was admitted and refilled",
    )


def _is_quiet(look: Snapshot, evidence: Evidence) -> bool:
    """Whether no request of ours was under way or unsettled around it."""
    return not any(
        attempt.sent_s < look.answered_s
        and (attempt.ended_s + SETTLE_GRACE_S) > look.sent_s
        for attempt in evidence.attempts
        if not attempt.is_limited
    )


def judge_agreement(evidence: Evidence) -> Iterator[Finding]:
    """Whether every replica tells the same."""
    if evidence.replicas < 2:
        yield skipped("agreement", "replicas", "one --base-url only")
        return
    for limit in evidence.first.limits:
        apart = max(
            (disagreement(limit.dimension, looks) for looks in evidence.rounds),
            default=0,
        )
        yield judged(
            "agreement",
            limit.dimension,
            f"{len(evidence.rounds)} rounds at {evidence.replicas} replicas",
            apart,
            bound="0",
            is_kept=apart == 0,
            reason=f"`used` differs by {apart:,} {limit.of} beyond refill",
        )


def disagreement(dimension: str, looks: tuple[Snapshot, ...]) -> int:
    """Units by which later answers of a round differ from the first, refill aside."""
    first = looks[0]
    expected = first.find(dimension)
    worst = 0
    for look in looks[1:]:
        seen = look.find(dimension)
        if expected is None or seen is None:
            worst = max(worst, int(expected is not seen))
            continue
        refilled = expected.refill_per_s * (look.answered_s - first.sent_s)
        slack = ceil(refilled) + 1 if refilled else 0
        worst = max(worst, seen.used - expected.used)
        worst = max(worst, expected.used - slack - seen.used)
    return worst


def foreign_use(evidence: Evidence) -> str | None:
    """What others used of the workspace while we did nothing, in words; or None."""
    by_replica: dict[int, list[Snapshot]] = {}
    for look in evidence.snapshots:
        by_replica.setdefault(look.replica, []).append(look)
    for looks in by_replica.values():
        for before, after in pairwise(looks):
            if not _is_ours(before.sent_s, after.answered_s, evidence):
                for limit in after.limits:
                    was = before.find(limit.dimension)
                    if was is not None and limit.used > was.used:
                        return f"{limit.dimension} rose by {limit.used - was.used:,}"
    return None


def _is_ours(from_s: float, until_s: float, evidence: Evidence) -> bool:
    return any(
        attempt.sent_s <= until_s and released_s(attempt) >= from_s
        for attempt in evidence.attempts
        if not attempt.is_limited
    )
