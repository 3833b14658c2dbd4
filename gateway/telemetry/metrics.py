"""
What operators see: every metric, its labels and its moment of measurement.

The core calls these methods and never imports Prometheus. Label values come from closed
sets: plan names, limit names, routes, outcomes; a model or a workspace is never a
label.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Info, ProcessCollector

from gateway import __version__
from gateway.errors import Outcome
from gateway.telemetry.definitions import WORKER_RESTARTS, WORKERS
from gateway.telemetry.exposition import Families, render
from gateway.telemetry.instruments import Counter, Gauge, Histogram
from gateway.telemetry.store_metrics import StoreCollector
from gateway.translation.usage import TokenUsage
from policies.key_cache import LookupOutcome, StoredKeys
from policies.ledger import Admitted, Rejected
from policies.outage.guarded_ledger import GuardedLedger
from policies.replay.port import ReplayOutcome, ReplayScope

# From a cached 401 to a generation that runs into OpenAI's 600 s client time-out; the
# steps double or less, so that a quantile is never off by more than that.
DURATION_BUCKETS_S = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 600,
)  # fmt: skip

# Actual over reserved tokens: below 1 is a refund, above 1 a top-up.
RATIO_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.85, 1, 1.15, 1.5, 2, 5)


class Telemetry:
    """The gateway's metrics in a registry of their own."""

    def __init__(self) -> None:
        # Of its own, so that two gateways in one process do not share counters.
        self.registry = CollectorRegistry()
        self._lookups: collections.Counter[LookupOutcome] = collections.Counter()
        self._define_requests()
        self._define_limits()
        self._define_operation()

    def _define_requests(self) -> None:
        self._requests = Counter(
            "llmtune_gateway_requests",
            "Requests, counted when their answer is complete or abandoned, by route"
            " (a path of ours, or _other) and outcome.",
            ["route", "outcome"],
            registry=self.registry,
        )
        self._duration = Histogram(
            "llmtune_gateway_request_duration_seconds",
            "From the request's first header byte to its answer's last, by route.",
            ["route"],
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "llmtune_gateway_requests_in_flight",
            "Requests between their headers and the end of their answer, now.",
            registry=self.registry,
        )
        self._first_token = Histogram(
            "llmtune_gateway_time_to_first_token_seconds",
            "From a stream's request to the first event that was sent to the client.",
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self._attempts = Counter(
            "llmtune_gateway_upstream_attempts",
            "HTTP exchanges with LLMTune, counted when their status is known, by"
            " outcome (ok, or the fault as in the access line).",
            ["outcome"],
            registry=self.registry,
        )

    def _define_limits(self) -> None:
        self._admissions = Counter(
            "llmtune_gateway_admissions",
            "Admission decisions by plan and decision (admitted, rejected).",
            ["plan", "decision"],
            registry=self.registry,
        )
        self._replays = Counter(
            "llmtune_gateway_replays",
            "Requests that are run once for all who ask, by what makes them so (key,"
            " retry, cache) and what became of it (first, stored, joined, in_flight,"
            " conflict, alone). The cache's hits are its stored and joined.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self._rejections = Counter(
            "llmtune_gateway_rejections",
            "Rejections by plan, binding limit and reason.",
            ["plan", "limit", "reason"],
            registry=self.registry,
        )
        self._shadowed = Counter(
            "llmtune_gateway_shadow_rejections",
            "Admitted requests that a shadow limit would have refused.",
            ["plan", "limit"],
            registry=self.registry,
        )
        self._tokens = Counter(
            "llmtune_gateway_tokens",
            "Tokens settled, by plan and direction (input, output).",
            ["plan", "direction"],
            registry=self.registry,
        )
        self._ratio = Histogram(
            "llmtune_gateway_reservation_ratio",
            "Tokens settled over tokens reserved, of requests that were answered.",
            buckets=RATIO_BUCKETS,
            registry=self.registry,
        )
        self._leases_held = Gauge(
            "llmtune_gateway_leases_held",
            "Leases this replica holds and renews, now.",
            registry=self.registry,
        )
        self._leases_lost = Counter(
            "llmtune_gateway_leases_lost",
            "Leases that could no longer be renewed although their request still ran.",
            registry=self.registry,
        )

    def _define_operation(self) -> None:
        self._reloads = Counter(
            "llmtune_gateway_reloads",
            "Reads of a changed plan or keys file, by what (plans, keys) and outcome"
            " (ok, refused); a refused file leaves the old one in force.",
            ["what", "outcome"],
            registry=self.registry,
        )
        self._reload_is_refused = Gauge(
            "llmtune_gateway_reload_refused",
            "1 while the newest version of the files is refused and an older in force.",
            ["what"],
            registry=self.registry,
        )
        Info(
            "llmtune_gateway_build", "The running version.", registry=self.registry
        ).info({"version": __version__})
        # One of each process; a supervisor adds up the workers, and its restarts.
        Gauge(WORKERS.name, WORKERS.text, registry=self.registry).set(1)
        Counter(WORKER_RESTARTS.family, WORKER_RESTARTS.text, registry=self.registry)
        ProcessCollector(registry=self.registry)

    def in_flight(self) -> AbstractContextManager[None]:
        """Count a request for as long as the block runs."""
        return self._in_flight

    def follow_leases(self, held: Callable[[], int]) -> None:
        """Show how many leases are held, asked when somebody scrapes."""
        self._leases_held.follow(held)

    def lease_lost(self) -> None:
        self._leases_lost.inc()

    def replay(self, kind: ReplayScope, outcome: ReplayOutcome) -> None:
        self._replays.inc(kind, outcome)

    def request(self, route: str, outcome: Outcome, duration_s: float) -> None:
        self._requests.inc(route, outcome)
        self._duration.observe(duration_s, route)

    def first_token(self, waited_s: float) -> None:
        self._first_token.observe(waited_s)

    def attempt(self, outcome: str) -> None:
        self._attempts.inc(outcome)

    def admitted(self, plan: str, decision: Admitted) -> None:
        self._admissions.inc(plan, "admitted")
        for limit in decision.shadowed:
            self._shadowed.inc(plan, limit.name)

    def rejected(self, plan: str, decision: Rejected) -> None:
        self._admissions.inc(plan, "rejected")
        self._rejections.inc(plan, decision.binding.name, decision.reason)

    def settled(self, plan: str, usage: TokenUsage, reserved_tokens: int) -> None:
        self._tokens.add(usage.input_tokens, plan, "input")
        self._tokens.add(usage.output_tokens, plan, "output")
        if reserved_tokens:
            self._ratio.observe(usage.total_tokens / reserved_tokens)

    def reloaded(self, what: str, *, is_refused: bool) -> None:
        self._reloads.inc(what, "refused" if is_refused else "ok")
        self._reload_is_refused.set(is_refused, what)

    def looked_up(self, outcome: LookupOutcome) -> None:
        self._lookups[outcome] += 1

    def follow_store(self, ledger: GuardedLedger, keys: StoredKeys) -> None:
        """Show what a shared store says of itself, from now on."""
        self.registry.register(StoreCollector(ledger, keys, self._lookups))

    async def families(self) -> Families:
        """This process' own metrics."""
        return self.registry.collect()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the form the scraper asked for."""
        return render(self.registry.collect(), accept)
