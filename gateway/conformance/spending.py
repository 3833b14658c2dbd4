"""
What a run will try with the plan it found, and the most it can spend on it. Pure.

A limit that would take too long or cost too much to reach is not tried, with its
reason; the report says so. Everything that is tried has a cap, so that a limiter which
never refuses ends the run as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from math import ceil
from typing import Final, Literal, TypeAlias

import msgspec

from gateway.conformance.findings import CHECKS, Skip
from gateway.conformance.observations import LimitSeen, Snapshot

# After the first refusal a load goes on for this long: the refill is watched too.
TAIL_S: Final = 1.0
LOAD_S: Final = 6.0

# Asked in quiet, one after the other, for settlement, headers and previews.
QUIET_ASKS: Final = 4
WAIT_TRIALS: Final = 5
# A bucket may refill as fast as one request after the other takes: several at once are
# refused. Of tokens, a single request is large enough.
REFUSAL_ROUNDS: Final = 2
VOLLEY: Final = 4

SMALL_MAX_TOKENS: Final = 4
# With its overhead; a bound for what is told beforehand, not for what is judged.
SMALL_COST: Final = 24

# An answer of this length keeps a stream open for seconds at the pace of most models;
# at half, fast ones end before they can be counted, at double the plan's tokens do.
LONGEST_STREAM_TOKENS: Final = 512
SHORTEST_STREAM_TOKENS: Final = 16
# More than the unit or two that rounding and refill could explain.
LONE_STREAMS: Final = 3
LARGEST_ASK_TOKENS: Final = 4000
# A token bucket is filled by about so many requests, so that no single one decides.
ASKS_PER_BUCKET: Final = 6


# What the exit code makes of promises that were not judged.
OnSkip: TypeAlias = Literal["incomplete", "fail", "pass"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller of the command allows."""

    seconds: float = 60.0
    concurrency: int = 64
    only: frozenset[str] = frozenset(CHECKS)
    max_requests: int = 1000
    max_tokens: int = 30_000
    fill_quotas: bool = False
    on_skip: OnSkip = "incomplete"

    def wants(self, *checks: str) -> bool:
        return not self.only.isdisjoint(checks)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one size until a limit refuses, never more than `max_asks`."""

    aim: LimitSeen
    prompt_tokens: int = 2
    cost_tokens: int = SMALL_COST
    # Admitted at most; a limiter that lets so many in is known to be broken.
    max_asks: int


class StreamPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Streams opened at once: as many as are allowed, and more that must not be."""

    dimension: str
    allowed: int
    attempts: int
    max_tokens: int


class Spending(msgspec.Struct, kw_only=True):
    """The run as it is planned."""

    loads: list[Load] = []
    streams: StreamPlan | None = None
    # Held at one replica while all are asked; 0 where there is only one.
    lone_streams: int = 0
    lone_stream_tokens: int = 0
    untried: dict[str, Skip] = {}
    requests: int = 0
    tokens: int = 0


def plan_spending(now: Snapshot, options: Options, replicas: int) -> Spending:
    """What to try, in the order in which the tries disturb one another least."""
    spending = Spending(requests=QUIET_ASKS, tokens=QUIET_ASKS * SMALL_COST)
    if replicas > 1 and options.wants("agreement"):
        _plan_lone_streams(spending, now)
    if options.wants("over-admission", "under-admission", "leaked-leases"):
        _plan_streams(spending, now, options)
    if options.wants("over-admission", "under-admission", "header-truth"):
        rates = [limit for limit in now.enforced if limit.kind == "rate"]
        for unit in ("requests", "tokens"):
            _plan_rate_load(spending, now, [x for x in rates if x.of == unit], options)
    if options.wants("over-admission", "under-admission"):
        for limit in now.enforced:
            if limit.kind == "quota":
                _plan_quota_load(spending, limit, options)
    return spending


def _plan_lone_streams(spending: Spending, now: Snapshot) -> None:
    places = least_capacity(now.enforced, "leases", LONE_STREAMS)
    count = min(LONE_STREAMS, places)
    room = least_capacity(now.enforced, "tokens", 2**31) // (2 * LONE_STREAMS)
    max_tokens = min(LONGEST_STREAM_TOKENS, room - SMALL_COST)
    requests, tokens = count + 1, count * (max_tokens + SMALL_COST) + SMALL_COST
    why = None
    if count < 1 or max_tokens < 1:
        why = Skip("small-plan", "the plan has no room for streams at one replica")
    why = why or _too_much(now.enforced, spending, requests, tokens)
    if why is not None:
        spending.untried["agreement"] = why
        return
    spending.lone_streams, spending.lone_stream_tokens = count, max_tokens
    _add(spending, requests, tokens)


def _plan_streams(spending: Spending, now: Snapshot, options: Options) -> None:
    limits = [limit for limit in now.enforced if limit.kind == "concurrency"]
    if not limits:
        return
    tightest = min(limits, key=lambda limit: limit.limit)
    allowed = tightest.limit
    attempts = 2 * allowed + 4
    why = None
    if allowed == 0:
        why = Skip("small-plan", "a limit of 0 suspends the workspace")
    elif attempts > options.concurrency:
        reason = f"{attempts} streams are more than --concurrency {options.concurrency}"
        why = Skip("too-many-streams", reason)
    room = least_capacity(now.enforced, "tokens", 2**31) * 45 // 100
    max_tokens = min(LONGEST_STREAM_TOKENS, room // max(1, allowed) - SMALL_COST)
    if why is None and max_tokens < SHORTEST_STREAM_TOKENS:
        why = Skip("small-plan", "the plan's tokens do not last for so many streams")
    # Opened twice, and the second time by as many as were let in.
    requests, tokens = 2 * attempts, 2 * attempts * (max_tokens + SMALL_COST)
    why = why or _too_much(now.enforced, spending, requests, tokens)
    if why is not None:
        spending.untried[tightest.dimension] = why
        spending.untried["leaked-leases"] = why
        return
    spending.streams = StreamPlan(
        dimension=tightest.dimension,
        allowed=allowed,
        attempts=attempts,
        max_tokens=max_tokens,
    )
    _add(spending, requests, tokens)


def _plan_rate_load(
    spending: Spending, now: Snapshot, rates: list[LimitSeen], options: Options
) -> None:
    if not rates:
        return
    # The one that refuses first; what it hides says so in its own row.
    aim = min(rates, key=lambda limit: limit.capacity)
    reach = aim.capacity + ceil(aim.refill_per_s * LOAD_S)
    load, why = _sized_load(now, aim, 2 * reach, options)
    if load is not None and why is None:
        requests, tokens = load.max_asks, load.max_asks * load.cost_tokens
        why = _too_much(now.enforced, spending, requests, tokens)
    if load is None or why is not None:
        no_size = Skip("small-plan", "no request is of the right size")
        spending.untried[aim.dimension] = why or no_size
        return
    spending.loads.append(load)
    # In each trial of a wait: until refused, too early, and when told.
    volley = VOLLEY if aim.of == "requests" else 0
    trials = WAIT_TRIALS * (REFUSAL_ROUNDS * (1 + volley) + 2)
    asks = load.max_asks + (trials if options.wants("header-truth") else 0)
    _add(spending, asks, asks * load.cost_tokens)


def _sized_load(
    now: Snapshot, aim: LimitSeen, units: int, options: Options
) -> tuple[Load | None, Skip | None]:
    if aim.of == "requests":
        most = options.max_requests
        reason = f"{aim.capacity:,} requests and a refusal are more than"
        why = Skip("too-costly", f"{reason} --unsafe-requests {most:,}")
        load = Load(aim=aim, max_asks=min(units, most))
        return load, why if aim.capacity >= most else None
    most = options.max_tokens
    if aim.capacity >= most:
        reason = f"filling {aim.capacity:,} tokens takes more than --unsafe-tokens"
        return None, Skip("too-costly", f"{reason} {most:,}")
    # Few enough requests that no limit on them is met before the tokens are spent.
    few = least_capacity(now.enforced, "requests", 2**31) * 6 // 10
    asks = max(1, min(ASKS_PER_BUCKET, few))
    cost = min(LARGEST_ASK_TOKENS, ceil(aim.capacity / asks))
    prompt = cost - SMALL_COST
    if prompt < 1:
        reason = f"{aim.capacity:,} tokens are fewer than a few requests use"
        return None, Skip("small-plan", reason)
    max_asks = min(2 * asks + ceil(units / cost), ceil(2 * most / cost))
    return Load(
        aim=aim, prompt_tokens=prompt, cost_tokens=cost, max_asks=max_asks
    ), None


def _plan_quota_load(spending: Spending, limit: LimitSeen, options: Options) -> None:
    most = options.max_requests if limit.of == "requests" else options.max_tokens
    named = f"a quota of {limit.limit:,} {limit.of} a {limit.per}"
    if limit.remaining >= most:
        spending.untried[limit.dimension] = Skip(
            "too-costly",
            f"filling {named} takes more than --unsafe-{limit.of} {most:,}",
        )
    elif not options.fill_quotas:
        spending.untried[limit.dimension] = Skip(
            "locks-out",
            f"filling {named} locks the workspace out until {moment(limit.resets_at)}",
        )
    else:
        cost = SMALL_COST
        if limit.of == "tokens":
            cost = max(SMALL_COST + 1, min(LARGEST_ASK_TOKENS, limit.remaining // 8))
        asks = limit.remaining if limit.of == "requests" else limit.remaining // cost
        load = Load(
            aim=limit,
            prompt_tokens=max(2, cost - SMALL_COST),
            cost_tokens=cost,
            max_asks=2 * asks + 8,
        )
        spending.loads.append(load)
        _add(spending, load.max_asks, load.max_asks * cost)


def _too_much(
    limits: Iterable[LimitSeen], spending: Spending, requests: int, tokens: int
) -> Skip | None:
    """Whether a quota has too little left: nobody is locked out by being measured."""
    for limit in limits:
        if limit.kind != "quota":
            continue
        spent = spending.requests if limit.of == "requests" else spending.tokens
        wanted = requests if limit.of == "requests" else tokens
        if spent + wanted > limit.remaining:
            reason = f"{limit.dimension} has only {limit.remaining:,} left"
            return Skip("little-quota-left", reason)
    return None


def least_capacity(limits: Iterable[LimitSeen], unit: str, default: int) -> int:
    return min(
        (limit.capacity for limit in limits if limit.of == unit), default=default
    )


def moment(epoch_s: int | None) -> str:
    if epoch_s is None:
        return "the window's end"
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(epoch_s))


def _add(spending: Spending, requests: int, tokens: int) -> None:
    spending.requests += requests
    spending.tokens += tokens
