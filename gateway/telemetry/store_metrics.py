"""
Metrics of the shared store, read from its parts when somebody scrapes.

Reading costs the requests nothing: what is counted here, its parts count anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from policies.key_cache import LookupOutcome, StoredKeys
from policies.outage.guarded_ledger import GuardedLedger, Outcome, Stand

PREFIX = "llmtune_gateway_"

# All there can be, so that each series is there before its first increase.
DECIDED_ALONE: Final[tuple[tuple[Stand, Outcome], ...]] = (
    ("share", "admitted"),
    ("share", "rejected"),
    ("share", "undecided"),
    ("open", "admitted"),
    ("closed", "undecided"),
)


class StoreCollector(Collector):
    """What the ledger and the keys in the store say of themselves."""

    def __init__(
        self,
        ledger: GuardedLedger,
        keys: StoredKeys,
        lookups: Counter[LookupOutcome],
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._lookups = lookups

    def collect(self) -> Iterator[Metric]:
        yield from self._of_store()
        yield from self._of_outage()
        yield from self._of_journal()
        yield from self._of_keys()

    def _of_store(self) -> Iterator[Metric]:
        health = self._ledger.health
        errors = CounterMetricFamily(
            PREFIX + "store_errors",
            "Calls to the store without an answer, by reason.",
            labels=["reason"],
        )
        for reason, count in sorted(health.errors.items()):
            errors.add_metric([reason], count)
        yield errors
        yield _gauge(
            "store_degraded",
            "1 until the store was first heard, and from the breaker's opening until"
            " it has heard what it missed: plans are enforced as their"
            " on_store_failure says.",
            not health.is_exact,
        )
        yield _counter(
            "store_outages",
            "How often the breaker opened.",
            health.breaker.opened_total,
        )
        yield _gauge(
            "replicas_seen",
            "Replicas a plan is divided by while the store is away.",
            self._ledger.count_replicas(),
        )

    def _of_outage(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily(
            PREFIX + "degraded_decisions",
            "Admissions decided without the store, by what stood in for it (share,"
            " open, closed: the plan's on_store_failure) and outcome (admitted;"
            " rejected by a limit of the share; undecided, a 503).",
            labels=["mode", "outcome"],
        )
        for mode, outcome in DECIDED_ALONE:
            count = self._ledger.decided[mode, outcome]
            decisions.add_metric([mode, outcome], count)
        yield decisions

    def _of_journal(self) -> Iterator[Metric]:
        journal = self._ledger.journal
        yield _gauge(
            "settlement_queue_depth",
            "Settlements the store has not taken yet, now.",
            journal.depth,
        )
        yield _gauge(
            "settlement_queue_oldest_seconds",
            "How long the oldest of them has waited.",
            journal.oldest_age_s,
        )
        yield _counter(
            "settlements_lost",
            "Settlements given up: the queue was full, or the process ended.",
            journal.lost_total,
        )

    def _of_keys(self) -> Iterator[Metric]:
        lookups = CounterMetricFamily(
            PREFIX + "key_lookups",
            "Look-ups of API keys in the store's cache, by outcome (hit, unknown_hit,"
            " found, unknown, stale, store_error, over_budget).",
            labels=["outcome"],
        )
        for outcome, count in sorted(self._lookups.items()):
            lookups.add_metric([outcome], count)
        yield lookups
        yield _gauge(
            "key_changes_followed",
            "1 while changed keys are heard of at once; else within the cache's ttl.",
            self._keys.is_subscribed,
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=float(value))
