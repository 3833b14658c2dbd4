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
from gateway.conformance.findings import (
    Check,
    Finding,
    Skip,
    judged,
    not_applicable,
    skipped,
)
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
    if not _has(evidence, "concurrency"):
        yield not_applicable(check, "concurrency", "the plan limits no concurrency")
        return
    drops = [trial for trial in evidence.drops if trial.dropped]
    if not drops:
        why = Skip("short-answers", "no stream was still open when it was dropped")
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
    if _has(evidence, "rate"):
        waits = [is_wait_kept(trial) for trial in evidence.waits]
        yield _kept("retry-after-ms", waits, _why_no_wait(evidence))
    else:
        yield not_applicable(TRUTH, "retry-after-ms", "the plan has no rate")
    if _has(evidence, "rate", "quota"):
        left = [is_remaining_true(trial) for trial in evidence.remainings]
        yield _kept("x-ratelimit-remaining", left, _why_not_told(evidence))
    else:
        why = "the plan has neither rate nor quota"
        yield not_applicable(TRUTH, "x-ratelimit-remaining", why)
    previews = [is_preview_kept(trial) for trial in evidence.previews]
    no_preview = evidence.untried.get("preview", _why_no_answer(evidence))
    yield _kept("preview", previews, no_preview)


def _has(evidence: Evidence, *kinds: str) -> bool:
    """Whether the plan enforces a limit of one of these kinds."""
    return any(limit.kind in kinds for limit in evidence.first.enforced)


def _why_no_wait(evidence: Evidence) -> Skip:
    """Why no wait was tried: of a rate that was never filled, the reason for that."""
    untried = evidence.untried
    if "retry-after-ms" in untried:
        return untried["retry-after-ms"]
    if any(attempt.outcome == "rate" for attempt in evidence.attempts):
        return Skip("fast-refill", "it refilled before its refusal could be waited for")
    rates = [limit for limit in evidence.first.enforced if limit.kind == "rate"]
    reasons = [untried[rate.dimension] for rate in rates if rate.dimension in untried]
    return reasons[0] if reasons else Skip("not-reached", "no rate refused anything")


def _why_not_told(evidence: Evidence) -> Skip:
    if evidence.remainings and not any(
        t.attempt.remaining for t in evidence.remainings
    ):
        return Skip("no-headers", "the answers carry no x-ratelimit-remaining")
    return _why_no_answer(evidence)


def _why_no_answer(evidence: Evidence) -> Skip:
    limited = [attempt for attempt in evidence.attempts if attempt.is_limited]
    if limited and not any(a.outcome == "admitted" for a in evidence.attempts):
        reason = f"nothing was let in: {limited[-1].dimension} refused"
        return Skip("little-quota-left", reason)
    return Skip("other-traffic", "no answer could be looked at in quiet")


def _kept(subject: str, outcomes: list[bool | None], why_none: Skip) -> Finding:
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
    if not _has(evidence, "rate", "quota"):
        why = "the plan has neither rate nor quota"
        yield not_applicable("settlement", "usage", why)
    for limit in evidence.first.enforced:
        if limit.kind == "quota":
            yield _judge_quota_use(limit, evidence)
        elif limit.kind == "rate":
            yield _judge_rate_use(limit, evidence)


def _judge_quota_use(limit: LimitSeen, evidence: Evidence) -> Finding:
    trials = [trial for trial in evidence.settlements if trial.attempts]
    errors = [error for t in trials if (error := quota_error(limit, t)) is not None]
    if not errors:
        return skipped("settlement", limit.dimension, _why_unsettled(trials, evidence))
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


def _why_unsettled(trials: list[SettlementTrial], evidence: Evidence) -> Skip:
    if not trials:
        return _why_no_answer(evidence)
    if any(a.total_tokens is None for t in trials for a in t.attempts):
        return Skip("failed-requests", "the answers reported no usage")
    return Skip("changed-meanwhile", "its window ended during the run")


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
        why = Skip("fast-refill", "it refills before it can be looked at")
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
        why = Skip("one-base-url", "nobody to agree with: one --base-url")
        yield skipped("agreement", "replicas", why)
        return
    for limit in evidence.first.limits:
        yield _judge_agreement(limit, evidence)


def _judge_agreement(limit: LimitSeen, evidence: Evidence) -> Finding:
    rounds = evidence.rounds
    apart = max((disagreement(limit.dimension, looks) for looks in rounds), default=0)
    measured = f"{len(rounds)} rounds at {evidence.replicas} replicas"
    if not apart and (why := _why_no_proof(limit, evidence)) is not None:
        return skipped("agreement", limit.dimension, why, measured)
    return judged(
        "agreement",
        limit.dimension,
        measured,
        apart,
        bound="0",
        is_kept=apart == 0,
        reason=f"`used` differs by {apart:,} {limit.of} beyond refill",
    )


def _why_no_proof(limit: LimitSeen, evidence: Evidence) -> Skip | None:
    """Replicas that know nothing agree as well: something must have been used."""
    if "agreement" in evidence.untried:
        return evidence.untried["agreement"]
    looks = (look.find(limit.dimension) for looks in evidence.rounds for look in looks)
    if any(seen is not None and seen.used for seen in looks):
        return None
    if limit.kind == "concurrency":
        return Skip("short-answers", "no stream was open when the replicas were asked")
    return Skip("fast-refill", "it refilled before the replicas could be asked")


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
    """What others did in the workspace while we did nothing, in words; or None."""
    if (busy := _busy_before(evidence)) is not None:
        return busy
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


def _busy_before(evidence: Evidence) -> str | None:
    """What was in flight before our first request: that never need rise to mislead."""
    first_s = min((a.sent_s for a in evidence.attempts), default=float("inf"))
    before = [look for look in evidence.snapshots if look.answered_s < first_s]
    for limit in before[-1].limits if before else ():
        if limit.kind == "concurrency" and limit.used:
            return f"{limit.used:,} in flight"
        if limit.reserved:
            return f"{limit.reserved:,} {limit.of} reserved in {limit.dimension}"
    return None


def _is_ours(from_s: float, until_s: float, evidence: Evidence) -> bool:
    return any(
        attempt.sent_s <= until_s and released_s(attempt) >= from_s
        for attempt in evidence.attempts
        if not attempt.is_limited
    )
