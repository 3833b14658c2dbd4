"""
The workspaces of the replicas' proof: the limits of each, and how it runs into them.

Every limit is small enough to be spent in the run, and asked for beyond that.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["rate", "quota", "concurrency"]
Unit: TypeAlias = Literal["requests", "tokens"]

# Refills so slow that a machine which is busy with other things still asks for more.
PER_MINUTE: Final = 300
TOKENS_PER_MINUTE: Final = 18_000
# A bucket that gets one unit back in an hour shows a single unit too many.
PER_HOUR: Final = 1
# The gateway takes no bucket that would need more than 366 days to refill.
MOST_IN_BUCKET: Final = 8000
PLACES: Final = 5
MANY: Final = 10**9
_PERIOD_S: Final = {"minute": 60, "hour": 3600}


class Limit(msgspec.Struct, frozen=True):
    """One limit of a plan; `most` is a rate's burst, a budget, or places."""

    kind: Kind
    most: int
    of: Unit = "requests"
    per: str = ""
    refill: int = 0

    @property
    def dimension(self) -> str:
        """What the gateway calls it when it refuses."""
        if self.kind == "concurrency":
            return "concurrency"
        window = "calendar-" if self.kind == "quota" else ""
        return f"{self.of}-per-{window}{self.per}"

    @property
    def per_s(self) -> float:
        return self.refill / _PERIOD_S[self.per]

    @property
    def is_total(self) -> bool:
        """Whether it holds a number of units that a run spends once."""
        return self.kind == "quota" or self.per == "hour"

    def written(self) -> str:
        """As a plan file has it."""
        if self.kind == "rate":
            figures = f"limit: {self.refill}, burst: {self.most}"
        else:
            figures = f"limit: {self.most}"
        return f"{{of: {self.of}, {figures}, per: {self.per}}}"


# Counts everything of everybody, and limits nobody.
COUNTED: Final = (
    Limit("quota", MANY, "requests", "month"),
    Limit("quota", MANY, "tokens", "month"),
)


class Traffic(msgspec.Struct, frozen=True):
    """What a workspace asks for, and how many ask at the same time."""

    workers: int = 6
    # More than any answer uses, so that every settlement refunds.
    max_tokens: int = 60
    output: int | None = None
    stream_share: float = 0.02
    events: int = 4


USUAL: Final = Traffic()


class Workspace(msgspec.Struct, frozen=True):
    """One workspace under a plan of that name, and what must refuse it."""

    name: str
    plan: str
    limits: tuple[Limit, ...] = ()
    traffic: Traffic = USUAL
    meets: frozenset[str] = frozenset()
    # What else may refuse it; anything beyond is a wrong answer.
    may_meet: frozenset[str] = frozenset()

    def plan_file(self) -> str:
        places = [limit.most for limit in self.limits if limit.kind == "concurrency"]
        rates = [limit.written() for limit in self.limits if limit.kind == "rate"]
        quotas = [
            limit.written()
            for limit in (*COUNTED, *self.limits)
            if limit.kind == "quota"
        ]
        return (
            f"plan: {self.name}\nconcurrency: {min(places, default=1000)}\n"
            f"rates: [{', '.join(rates)}]\nquotas: [{', '.join(quotas)}]\n"
        )


def workspaces(admissions: int) -> list[Workspace]:
    """Those of a run of so many admissions."""
    burst = max(20, admissions // 200)
    rate = Limit("rate", burst, "requests", "minute", PER_MINUTE)
    token_burst = max(1500, 40 * burst)
    token_rate = Limit("rate", token_burst, "tokens", "minute", TOKENS_PER_MINUTE)
    most = min(MOST_IN_BUCKET, admissions // 15)
    bucket = Limit("rate", most, "requests", "hour", PER_HOUR)
    most = min(MOST_IN_BUCKET, admissions * 2)
    token_bucket = Limit("rate", most, "tokens", "hour", PER_HOUR)
    budget = Limit("quota", admissions // 10, "requests", "day")
    token_budget = Limit("quota", admissions * 5 // 2, "tokens", "day")
    places = Limit("concurrency", PLACES)
    return [
        Workspace("open", "open", traffic=Traffic(workers=12)),
        _limited("rated", rate),
        _limited("token-rated", token_rate),
        _limited("bucketed", bucket),
        _limited("token-bucketed", token_bucket),
        _limited("budgeted", budget),
        _limited("token-budgeted", token_budget),
        _limited("narrow", places, Traffic(workers=2 * PLACES, stream_share=1.0)),
        *_mixed(rate, token_rate, places, filled_in_s=3 + admissions // 1000),
    ]


def _limited(name: str, limit: Limit, traffic: Traffic = USUAL) -> Workspace:
    return Workspace(name, name, (limit,), traffic, frozenset({limit.dimension}))


def _mixed(
    rate: Limit, token_rate: Limit, places: Limit, *, filled_in_s: int
) -> list[Workspace]:
    """
    Three workspaces under the same five limits, each of which refuses one of them.

    Small requests meet those of requests and never those of tokens, large ones the
    other way round: first the rate, and the budget when that has refilled for so long.
    Long ones take all places, and come too slowly to meet a rate.
    """
    budget = rate.most + round(rate.per_s * filled_in_s)
    token_budget = token_rate.most + round(token_rate.per_s * filled_in_s)
    of_requests = Limit("quota", budget, "requests", "day")
    of_tokens = Limit("quota", token_budget, "tokens", "day")
    limits = (rate, token_rate, of_requests, of_tokens, places)
    crowded = frozenset({places.dimension})
    return [
        Workspace(
            "mixed-small",
            "mixed",
            limits,
            Traffic(max_tokens=1, output=1),
            meets=frozenset({rate.dimension, of_requests.dimension}),
            may_meet=crowded,
        ),
        Workspace(
            "mixed-large",
            "mixed",
            limits,
            Traffic(max_tokens=110, output=90),
            meets=frozenset({token_rate.dimension, of_tokens.dimension}),
            may_meet=crowded,
        ),
        Workspace(
            "mixed-long",
            "mixed",
            limits,
            Traffic(workers=2 * PLACES, stream_share=1.0, events=30),
            meets=crowded,
            may_meet=frozenset({of_requests.dimension}),
        ),
    ]
