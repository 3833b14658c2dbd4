"""
What the gateway's parts tell of what happens, as metrics.

The core calls these methods and never imports Prometheus. What each metric means is in
`definitions.py`; what the store, the ledger and the replays count themselves is read
from them when somebody scrapes.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias, get_args

from prometheus_client import CollectorRegistry, ProcessCollector

from gateway import __version__
from gateway.errors import Fault, Outcome
from gateway.telemetry import definitions as d
from gateway.telemetry.busiest import MOST_MODELS, MOST_WORKSPACES, Busiest
from gateway.telemetry.definition import OTHER, Definition
from gateway.telemetry.exposition import Families, render
from gateway.telemetry.instruments import (
    Counter,
    Followed,
    Gauge,
    Histogram,
    Labels,
    Reading,
)
from gateway.telemetry.job_metrics import JobMetrics
from gateway.telemetry.noting import BATCH, CountedFirst, Noted
from gateway.translation.usage import TokenUsage
from gateway.webhooks.incoming import Reason
from policies.key_cache import LookupOutcome
from policies.ledger import Admitted, Decision, LimitState, Rejected
from policies.replay.port import ReplayOutcome, ReplayScope

# How long it is shown where a busy workspace stood: a rate has refilled by then.
STANDING_S: Final = 60.0

# Route, outcome, seconds, and of them added by the gateway.
_Ended: TypeAlias = tuple[str, Outcome, float, float | None]
# Its outcome and its seconds.
Attempted: TypeAlias = tuple[Literal["ok", "refused"] | Fault, float]
# Plan, workspace and what was decided.
Decided: TypeAlias = tuple[str, str, Decision]
# Plan, workspace, model, what was used and how many tokens were reserved for it.
Charged: TypeAlias = tuple[str, str, str, TokenUsage, int]
# A call that the store answered, and its seconds.
StoreAnswered: TypeAlias = tuple[str, float]

# The files that are reloaded.
What: TypeAlias = Literal["plans", "keys", "webhooks"]


class Telemetry:
    """The gateway's metrics in a registry of their own."""

    def __init__(self, *, now_s: Callable[[], float] = time.monotonic) -> None:
        # Of its own, so that two gateways in one process do not share counters.
        self.registry = CollectorRegistry()
        self.lookups: collections.Counter[LookupOutcome] = collections.Counter()
        self.registry.register(CountedFirst(self.count_noted))
        # What others count, shown when somebody scrapes.
        self.followed = Followed(self.registry)
        self._now_s = now_s
        # Where the busy workspaces stood at their last decision.
        self._stood: dict[str, tuple[float, tuple[LimitState, ...]]] = {}
        self.models = Busiest(MOST_MODELS, displaced=self._forget_model, now_s=now_s)
        self.workspaces = Busiest(
            MOST_WORKSPACES, displaced=self._forget_workspace, now_s=now_s
        )
        self._ended = Noted(self._count_ended)
        # What comes with each request is handed to a list's own `append`: a method of
        # this class costs 1 us where it is called between other work.
        self.attempted: Noted[Attempted] = Noted(self._count_attempted)
        self.decided: Noted[Decided] = Noted(self._count_decided)
        self.charged: Noted[Charged] = Noted(self._count_charged)
        self.store_answered: Noted[StoreAnswered] = Noted(self._count_store_answered)
        # Raised and lowered by who answers, for the same reason.
        self.requests_in_flight = 0
        self.streams_in_flight = 0
        self._define_requests()
        self._define_limits()
        self._define_operation()
        self.jobs = JobMetrics(self.registry, self.followed, now_s=now_s)

    def _counter(self, what: Definition) -> Counter:
        return Counter(what.family, what.text, what.labels, registry=self.registry)

    def _gauge(self, what: Definition) -> Gauge:
        return Gauge(what.name, what.text, what.labels, registry=self.registry)

    def _histogram(self, what: Definition) -> Histogram:
        return Histogram(
            what.name,
            what.text,
            what.labels,
            buckets=what.buckets,
            registry=self.registry,
        )

    def _define_requests(self) -> None:
        self._requests = self._counter(d.REQUESTS)
        # Of the route that clients ask most: without failures their share is 0 and not
        # unknown, and the first is seen.
        for ended in get_args(Outcome):
            self._requests.add(0, "/v1/chat/completions", ended)
        self._duration = self._histogram(d.REQUEST_DURATION)
        followed = self.followed
        followed.add_one(d.REQUESTS_IN_FLIGHT, lambda: self.requests_in_flight)
        followed.add_one(d.STREAMS_IN_FLIGHT, lambda: self.streams_in_flight)
        self._first_token = self._histogram(d.FIRST_TOKEN)
        self._output_token = self._histogram(d.OUTPUT_TOKEN)
        self._added = self._histogram(d.ADDED_LATENCY)
        self._attempts = self._counter(d.UPSTREAM_ATTEMPTS)
        # There before its first increase, which a rate does not see of a new series.
        for outcome in ("ok", *get_args(Fault)):
            self._attempts.add(0, outcome)
        self._attempt_duration = self._histogram(d.UPSTREAM_DURATION)
        self._tokens = self._counter(d.TOKENS)

    def _define_limits(self) -> None:
        self._admissions = self._counter(d.ADMISSIONS)
        self._rejections = self._counter(d.REJECTIONS)
        self._shadowed = self._counter(d.SHADOW_REJECTIONS)
        self._near_limit = self._counter(d.NEAR_LIMIT)
        self._ratio = self._histogram(d.RESERVATION_RATIO)
        self._leases_renewed = self._counter(d.LEASES_RENEWED)
        self._leases_lost = self._counter(d.LEASES_LOST)
        self._of_workspace = self._counter(d.WORKSPACE_REQUESTS)
        self._workspace_tokens = self._counter(d.WORKSPACE_TOKENS)
        self.followed.add(d.WORKSPACE_USED, self._used_ratios)

    def _define_operation(self) -> None:
        self._rate_limit_calls = self._counter(d.RATE_LIMIT_CALLS)
        self._webhooks = self._counter(d.WEBHOOKS)
        for came in ("results", "kept", "repeated", *get_args(Reason)):
            self._webhooks.add(0, came)
        self._deliveries = self._counter(d.WEBHOOK_DELIVERIES)
        for told in ("delivered", "retried", "dead", "refused_target"):
            self._deliveries.add(0, told)
        self._batch_lines = self._counter(d.BATCH_LINES)
        self._replays = self._counter(d.REPLAYS)
        self._claims_lost = self._counter(d.REPLAY_CLAIMS_LOST)
        self._store_calls = self._histogram(d.STORE_DURATION)
        self._reloads = self._counter(d.RELOADS)
        self._reload_is_refused = self._gauge(d.RELOAD_REFUSED)
        for what in get_args(What):
            self._reload_is_refused.set(False, what)
            self._reloads.add(0, what, "ok")
            self._reloads.add(0, what, "refused")
        self._lag = self._histogram(d.EVENT_LOOP_LAG)
        self.followed.add(d.BUILD, lambda: [((__version__,), 1.0)])
        # One of each process; a supervisor adds up the workers, and its restarts.
        self.followed.add_one(d.WORKERS, lambda: 1)
        self._counter(d.WORKER_RESTARTS)
        ProcessCollector(registry=self.registry)

    def count_noted(self) -> None:
        """Count what was noted and not counted yet, as every scrape does first."""
        # Decisions before charges: a workspace that is new has its place by them.
        for noted in (
            *(self._ended, self.attempted, self.decided),
            *(self.charged, self.store_answered),
        ):
            noted.count()

    # Requests.

    def request(
        self,
        route: str,
        outcome: Outcome,
        duration_s: float,
        added_s: float | None = None,
        trace_id: str | None = None,
    ) -> None:
        """`added_s` as in `added`, of a whole answer."""
        if trace_id is None:
            self._ended.note((route, outcome, duration_s, added_s))
            if len(self._ended.events) >= BATCH:
                self.count_noted()
            return
        self._requests.inc(route, outcome)
        self._duration.observe(duration_s, route, outcome, trace_id=trace_id)
        if added_s is not None:
            self.added(added_s, trace_id)

    def _count_ended(self, events: list[_Ended]) -> None:
        groups: dict[Labels, list[float]] = {}
        all_added_s: list[float] = []
        for route, outcome, duration_s, added_s in events:
            groups.setdefault((route, outcome), []).append(duration_s)
            if added_s is not None:
                all_added_s.append(added_s if added_s > 0 else 0.0)
        for labels, durations_s in groups.items():
            self._requests.add(len(durations_s), *labels)
            self._duration.observe_all(durations_s, *labels)
        self._added.observe_all(all_added_s)

    def added(self, added_s: float, trace_id: str | None = None) -> None:
        """What of an answer's time was not spent waiting for somebody else."""
        # Two clocks of different steps may say that nothing took less than nothing.
        self._added.observe(max(added_s, 0.0), trace_id=trace_id)

    def first_token(
        self, model: str | None, waited_s: float, trace_id: str | None = None
    ) -> None:
        # Text came, so there is such a model.
        label = self.models.count(model) if model else OTHER
        self._first_token.observe(waited_s, label, trace_id=trace_id)

    def streamed(self, model: str | None, output_tokens: int, flowed_s: float) -> None:
        """A complete stream flowed for so long from its first event on."""
        if output_tokens > 1:
            each_s = flowed_s / (output_tokens - 1)
            self._output_token.observe(each_s, self.models.label(model or ""))

    def _count_attempted(self, events: list[Attempted]) -> None:
        self._attempts.count((outcome,) for outcome, _ in events)
        self._attempt_duration.observe_all([duration_s for _, duration_s in events])

    # Limits.

    def _count_decided(self, events: list[Decided]) -> None:
        groups: dict[tuple[str, str, type[Decision]], int] = {}
        stood: dict[str, tuple[LimitState, ...]] = {}
        for plan, workspace, decision in events:
            group = plan, workspace, decision.__class__
            groups[group] = groups.get(group, 0) + 1
            stood[workspace] = decision.states
            if isinstance(decision, Rejected):
                self._rejections.inc(plan, decision.binding.name, decision.reason)
            else:
                self._count_near(plan, decision)
        for (plan, workspace, kind), times in groups.items():
            word = "rejected" if kind is Rejected else "admitted"
            self._admissions.add(times, plan, word)
            label = self.workspaces.count(workspace, times)
            self._of_workspace.add(times, label, word)
        now_s = self._now_s()
        for workspace, states in stood.items():
            if workspace in self.workspaces:
                self._stood[workspace] = now_s, states

    def _count_near(self, plan: str, decision: Admitted) -> None:
        for state in decision.states:
            # 80 % in integers, which cost half of what a division does.
            if state.used * 5 >= state.capacity * 4:
                self._near_limit.inc(plan, state.name)
        for limit in decision.shadowed:
            self._shadowed.inc(plan, limit.name)

    def _count_charged(self, events: list[Charged]) -> None:
        groups: dict[tuple[str, str, str], list[TokenUsage]] = {}
        ratios: list[float] = []
        for plan, workspace, model, usage, reserved_tokens in events:
            groups.setdefault((plan, workspace, model), []).append(usage)
            # A client that leaves before its answer is charged its prompt alone, which
            # says nothing of how well answers are estimated.
            if reserved_tokens and usage.output_tokens:
                ratios.append(usage.total_tokens / reserved_tokens)
        for (plan, workspace, model), usages in groups.items():
            self._count_tokens(plan, workspace, model, usages)
        self._ratio.observe_all(ratios)

    def _count_tokens(
        self, plan: str, workspace: str, model: str, usages: Sequence[TokenUsage]
    ) -> None:
        # A name that no model answers to has no output, and gets no place.
        answers = sum(usage.output_tokens > 0 for usage in usages)
        models = self.models
        label = models.count(model, answers) if answers else models.label(model)
        input_tokens = sum(usage.input_tokens for usage in usages)
        output_tokens = sum(usage.output_tokens for usage in usages)
        self._tokens.add(input_tokens, plan, label, "input")
        self._tokens.add(output_tokens, plan, label, "output")
        total = input_tokens + output_tokens
        self._workspace_tokens.add(total, self.workspaces.label(workspace))

    def lease_renewed(self) -> None:
        self._leases_renewed.inc()

    def lease_lost(self) -> None:
        self._leases_lost.inc()

    def _used_ratios(self) -> list[Reading]:
        since_s = self._now_s() - STANDING_S
        return [
            ((workspace, state.name), state.used / max(state.capacity, 1))
            for workspace, (stood_s, states) in self._stood.items()
            if stood_s >= since_s
            for state in states
        ]

    def _forget_workspace(self, workspace: str) -> None:
        self._stood.pop(workspace, None)
        for each in (self._of_workspace, self._workspace_tokens):
            each.forget("workspace", workspace)

    def _forget_model(self, model: str) -> None:
        self._tokens.forget("model", model)
        self._first_token.forget("model", model)
        self._output_token.forget("model", model)

    # The rest.

    def replay(self, kind: ReplayScope, outcome: ReplayOutcome) -> None:
        self._replays.inc(kind, outcome)

    def claim_lost(self) -> None:
        self._claims_lost.inc()

    def _count_store_answered(self, events: list[StoreAnswered]) -> None:
        groups: dict[str, list[float]] = {}
        for call, duration_s in events:
            groups.setdefault(call, []).append(duration_s)
        for call, durations_s in groups.items():
            self._store_calls.observe_all(durations_s, call)

    def reloaded(self, what: What, *, is_refused: bool) -> None:
        self._reloads.inc(what, "refused" if is_refused else "ok")
        self._reload_is_refused.set(is_refused, what)

    def lagged(self, lag_s: float) -> None:
        """Heard four times a second, whatever comes."""
        self.count_noted()
        self.models.look_at_clock()
        self.workspaces.look_at_clock()
        self._lag.observe(lag_s)

    def rate_limit_called(self, outcome: str, times: int = 1) -> None:
        self._rate_limit_calls.add(times, outcome)

    def webhook_came(self, outcome: str) -> None:
        self._webhooks.add(1, outcome)

    def webhook_told(self, outcome: str) -> None:
        self._deliveries.inc(outcome)

    def batch_lines_written(self, completed: int, failed: int) -> None:
        self._batch_lines.add(completed, "completed")
        self._batch_lines.add(failed, "failed")

    def looked_up(self, outcome: LookupOutcome) -> None:
        self.lookups[outcome] += 1

    async def families(self) -> Families:
        """This process' own metrics."""
        return self.registry.collect()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, in the form the scraper asked for."""
        return render(self.registry.collect(), accept)
