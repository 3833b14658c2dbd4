"""
What a run must show, as ratios of figures of the same run.

Of ours, the one whose ledger is in Redis is judged: it is the one that replicas use.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from benchmarks.figures import ratio
from benchmarks.results import Place, Results, ratio_of_rounds

OURS: Final = "ours-redis"
Outcome: TypeAlias = Literal["ok", "MISSED", "not measured"]


class Target(msgspec.Struct, frozen=True):
    """One bound: a figure, or its ratio to another one, from below or from above."""

    says: str
    over: Place
    bound: float
    under: Place | None = None
    is_floor: bool = False


class Judged(msgspec.Struct, frozen=True):
    """A target and what the run says of it."""

    says: str
    bound: float
    is_floor: bool
    # The ratio of the medians, or the median itself; this is what is judged.
    measured: float | None
    # The median of the rounds' own ratios, which a drifting machine moves less.
    by_round: float | None
    outcome: Outcome


def _than(says: str, over: Place, gateway: str, bound: float, **more: bool) -> Target:
    under = msgspec.structs.replace(over, gateway=gateway)
    return Target(says, over, bound, under, **more)


_PER_S: Final = Place("whole-32", OURS, "per_s")
_P99: Final = Place("whole-32", OURS, "p99_ms")
_ADDED: Final = Place("whole-1", OURS, "added_p50_ms")
_TOLD: Final = Place("telemetry-32", OURS, "per_s")
_RELAY: Final = Place("streams-500", OURS, "relay_p99_ms")
_CPU: Final = Place("streams-500", OURS, "cpu_s_per_million")

TARGETS: Final = (
    _than(
        "requests/s, 32 connections / ferrogw", _PER_S, "ferrogw", 1.2, is_floor=True
    ),
    _than("requests/s, 32 connections / Portkey", _PER_S, "portkey", 9, is_floor=True),
    _than("requests/s, 32 connections / LiteLLM", _PER_S, "litellm", 90, is_floor=True),
    _than(
        "requests/s, 32 connections / Envoy, plain proxy",
        *(_PER_S, "envoy", 0.45),
        is_floor=True,
    ),
    _than("p99, 32 connections / ferrogw", _P99, "ferrogw", 1),
    _than("added p50, 1 connection / ferrogw", _ADDED, "ferrogw", 1),
    _than("relay p99, 500 streams / ferrogw", _RELAY, "ferrogw", 0.25),
    _than("relay p99, 500 streams / Envoy, raw relay", _RELAY, "envoy", 2),
    _than("CPU per event, 500 streams / ferrogw", _CPU, "ferrogw", 0.8),
    _than("CPU per event, 500 streams / Envoy, raw relay", _CPU, "envoy", 1.5),
    _than(
        "requests/s with metrics / without",
        _TOLD,
        "ours-no-metrics",
        0.95,
        is_floor=True,
    ),
    _than(
        "requests/s with 1 % traced / without traces",
        msgspec.structs.replace(_TOLD, gateway="ours-traces-1"),
        *(OURS, 0.9),
        is_floor=True,
    ),
    Target(
        "share of events delivered, 1,000 streams",
        Place("streams-1000", OURS, "delivered_share"),
        0.98,
        is_floor=True,
    ),
    Target(
        "RSS growth per open stream at 2,000, KiB",
        Place("streams-2000", OURS, "rss_kib_per_stream"),
        20,
    ),
    Target(
        "429s/s / admitted requests/s",
        Place("rejections", OURS, "per_s"),
        1.5,
        Place("rejections", OURS, "admitted_per_s"),
        is_floor=True,
    ),
)


def judge(results: Results) -> list[Judged]:
    """Every target, whether or not the run has what it needs."""
    return [_judge(target, results) for target in TARGETS]


def _judge(target: Target, results: Results) -> Judged:
    ours, theirs = target.over, target.under
    rounds = valid = ours.rounds_valid(results)
    if theirs is None:
        measured, by_round = ours.median(results, rounds), None
    else:
        # The same rounds for both: the machine drifts from one to the next.
        rounds = valid & theirs.rounds_valid(results)
        measured = ratio(ours.median(results, rounds), theirs.median(results, rounds))
        by_round = ratio_of_rounds(results, ours, theirs)
    outcome = outcome_of(measured, target.bound, is_floor=target.is_floor)
    if 2 * len(valid) < ours.rounds_tried(results):
        # Errors in most rounds, or never started: certainly not a kept promise.
        outcome = "MISSED"
    return Judged(
        target.says, target.bound, target.is_floor, measured, by_round, outcome
    )


def outcome_of(measured: float | None, bound: float, *, is_floor: bool) -> Outcome:
    if measured is None:
        return "not measured"
    is_kept = measured >= bound if is_floor else measured <= bound
    return "ok" if is_kept else "MISSED"
