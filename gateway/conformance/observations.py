"""
What a run saw, as values: every fact with the two instants it lies between.

All instants are seconds of this process' monotonic clock. What the deployment decided,
it decided between `sent_s` and `answered_s`; nothing narrower is known from outside.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from gateway.conformance.findings import Skip

PERIOD_S: Final = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

Outcome: TypeAlias = Literal[
    "admitted",
    "rate",
    "quota",
    "concurrency",
    "too_large",
    "refused",  # by the rules of the request, not by a limit
    "failed",  # upstream or gateway: whatever was reserved flows back
    "unknown",  # no answer: it may or may not have been charged
]
OUTCOME_OF_CODE: Final[dict[str, Outcome]] = {
    "rate_limit_exceeded": "rate",
    "insufficient_quota": "quota",
    "concurrency_limit_exceeded": "concurrency",
    "request_exceeds_limit": "too_large",
}


# Neither let in nor refused by a limit: such a request says nothing about one.
UNANSWERED: Final[tuple[Outcome, ...]] = ("refused", "failed", "unknown")


class LimitSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One limit as `GET /v1/limits` tells it."""

    dimension: str
    whose: str = "workspace"
    kind: Literal["rate", "quota", "concurrency"]
    of: Literal["requests", "tokens", "leases"]
    per: str | None = None
    limit: int
    capacity: int
    used: int
    reserved: int = 0
    remaining: int
    shadow: bool = False
    reset_after_ms: int | None = None
    resets_at: int | None = None

    @property
    def refill_per_s(self) -> float:
        """What flows back while one waits; a quota refills at its window's end only."""
        if self.kind != "rate" or self.per is None:
            return 0.0
        return self.limit / PERIOD_S[self.per]


# `resets_at` is now plus a duration, rounded up: one end may be told a second apart.
RESET_JITTER_S: Final = 2


def is_same_window(one: LimitSeen, other: LimitSeen) -> bool:
    """Whether both were told of the same window of a quota."""
    if one.resets_at is None or other.resets_at is None:
        return one.resets_at is other.resets_at
    return abs(one.resets_at - other.resets_at) <= RESET_JITTER_S


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of `GET /v1/limits`."""

    replica: int
    sent_s: float
    answered_s: float
    plan: str = ""
    title: str = ""
    store: str = "exact"
    limits: tuple[LimitSeen, ...] = ()

    def find(self, dimension: str) -> LimitSeen | None:
        return next((x for x in self.limits if x.dimension == dimension), None)

    @property
    def enforced(self) -> tuple[LimitSeen, ...]:
        return tuple(limit for limit in self.limits if not limit.shadow)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is in flight, as far as this replica says."""
        return all(
            limit.used == 0 if limit.kind == "concurrency" else limit.reserved == 0
            for limit in self.limits
        )


class Attempt(msgspec.Struct, kw_only=True):
    """One completion that was asked for; a stream's end is filled in when it ends."""

    replica: int
    sent_s: float
    # Of a stream: its headers.
    answered_s: float
    # The end of the answer; until then the reservation stands.
    ended_s: float
    outcome: Outcome
    # Upper bound of what it was reserved at; what it really used, where it was told.
    reserve_tokens: int
    total_tokens: int | None = None
    # Of a rejection: the limit that refused it, by how much, for how long.
    dimension: str | None = None
    requested: int | None = None
    retry_after_ms: int | None = None
    # x-ratelimit-remaining-* by unit.
    remaining: dict[str, int] = {}
    degraded: str | None = None
    problem: str = ""

    @property
    def is_limited(self) -> bool:
        return self.outcome in ("rate", "quota", "concurrency", "too_large")


class StreamSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that was admitted: from when until when it was open for certain."""

    replica: int
    opened_s: float
    # The last event that another one followed: the answer had not ended there.
    alive_s: float
    was_dropped: bool


class PreviewSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /v1/limits/preview` said."""

    replica: int
    sent_s: float
    answered_s: float
    would_pass: bool
    reserve_tokens: int
    retry_after_ms: int | None = None


class PreviewTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A preview, and the same request sent right after it."""

    preview: PreviewSeen
    attempt: Attempt
    # Whether no refund of ours could come between the two.
    is_quiet: bool = True


class WaitTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A rejection with its wait; asked again too early, then exactly when told."""

    rejection: Attempt
    early: Attempt | None
    late: Attempt


class RemainingTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Where the plan stood, and what the answer after it said is left."""

    before: Snapshot
    attempt: Attempt


class DropTrial(msgspec.Struct, frozen=True, kw_only=True):
    """Streams dropped mid-way, and how their places came back."""

    dropped: int
    dropped_s: float
    # When every replica said that nothing is held; None: not within the wait.
    free_s: float | None
    still_held: int
    reopened: int
    # For want of a place, until the wait was over.
    refused_again: int


class SettlementTrial(msgspec.Struct, frozen=True, kw_only=True):
    """A few answers read to their end, between two looks at the limits."""

    before: Snapshot
    after: Snapshot
    attempts: tuple[Attempt, ...]
    is_settled: bool


class Evidence(msgspec.Struct, kw_only=True):
    """Everything a run saw; grows while it runs."""

    replicas: int
    first: Snapshot
    attempts: list[Attempt] = []
    snapshots: list[Snapshot] = []
    streams: list[StreamSeen] = []
    # Limits asked for at each replica while nothing of ours changed.
    rounds: list[tuple[Snapshot, ...]] = []
    waits: list[WaitTrial] = []
    previews: list[PreviewTrial] = []
    remainings: list[RemainingTrial] = []
    drops: list[DropTrial] = []
    settlements: list[SettlementTrial] = []
    # Why a dimension or a check was not tried, by its name.
    untried: dict[str, Skip] = {}
    margin_s: float = 0.1
