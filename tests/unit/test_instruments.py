"""Instruments of our own, and prometheus_client's: a scraper reads the same of both."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import prometheus_client
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway.telemetry import definitions
from gateway.telemetry.instruments import Counter, Followed, Gauge, Histogram

# The plain form of two ages, and OpenMetrics.
FORMS = ("", "text/plain;version=1.0.0", "application/openmetrics-text;version=1.0.0")
BUCKETS = (0.005, 0.1, 1, 2.5, 10)
TEXT = 'A "text"\\ with all\nthat is escaped.'


class Ours:
    """One instrument of each kind, without labels and with two."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        two = ["plan", "outcome"]
        self.count = Counter("count", TEXT, registry=registry)
        self.counts = Counter("counts", TEXT, two, registry=registry)
        self.level = Gauge("level", TEXT, registry=registry)
        self.levels = Gauge("levels", TEXT, two, registry=registry)
        self.spread = Histogram("spread", TEXT, buckets=BUCKETS, registry=registry)
        self.spreads = Histogram(
            "spreads", TEXT, two, buckets=BUCKETS, registry=registry
        )


class Theirs:
    """The same of prometheus_client's."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        two = ["plan", "outcome"]
        self.count = prometheus_client.Counter("count", TEXT, registry=registry)
        self.counts = prometheus_client.Counter("counts", TEXT, two, registry=registry)
        self.level = prometheus_client.Gauge("level", TEXT, registry=registry)
        self.levels = prometheus_client.Gauge("levels", TEXT, two, registry=registry)
        self.spread = prometheus_client.Histogram(
            "spread", TEXT, buckets=BUCKETS, registry=registry
        )
        self.spreads = prometheus_client.Histogram(
            "spreads", TEXT, two, buckets=BUCKETS, registry=registry
        )


def expositions(registry: CollectorRegistry) -> list[str]:
    """In every form, without the moments at which the series began."""
    return [
        re.sub(
            r"(?m)^(\w+_created.*) [\d.e+]+$",
            r"\1 then",
            choose_encoder(form)[0](registry).decode(),
        )
        for form in FORMS
    ]


# With all that must be escaped, and so few that each is met again.
LABELS = st.tuples(st.sampled_from(["a", 'b"\\\n', "ü"]), st.sampled_from(["", "ok"]))
AMOUNTS = st.sampled_from([0, 1, 7, 10**6, 10**17]) | st.floats(0, 1e9)
VALUES = AMOUNTS | st.sampled_from([-1.5, *BUCKETS, float("inf")])
UPDATES = st.lists(
    st.tuples(st.sampled_from(["inc", "set"]), st.none() | LABELS, st.just(1))
    | st.tuples(st.just("add"), st.none() | LABELS, AMOUNTS)
    | st.tuples(st.sampled_from(["set", "observe"]), st.none() | LABELS, VALUES),
    max_size=30,
)


def update(ours: Ours, theirs: Theirs, how: str, labels: Any, value: float) -> None:
    given_labels = labels or ()

    def pick(one: Any, many: Any) -> Any:
        return one if labels is None else many

    def child(one: Any, many: Any) -> Any:
        return one if labels is None else many.labels(*labels)

    match how:
        case "inc":
            pick(ours.count, ours.counts).inc(*given_labels)
            child(theirs.count, theirs.counts).inc()
        case "add":
            pick(ours.count, ours.counts).add(value, *given_labels)
            child(theirs.count, theirs.counts).inc(value)
        case "set":
            pick(ours.level, ours.levels).set(value, *given_labels)
            child(theirs.level, theirs.levels).set(value)
        case "observe":
            pick(ours.spread, ours.spreads).observe(value, *given_labels)
            child(theirs.spread, theirs.spreads).observe(value)


@settings(deadline=None)  # a loaded machine is no reason to fail
@given(UPDATES)
def test_a_scraper_reads_what_prometheus_client_would_write(
    updates: list[tuple[str, Any, float]],
) -> None:
    """Also before the first update: what has no labels stands at 0 from the start."""
    ours, theirs = Ours(), Theirs()

    for how, labels, value in updates:
        update(ours, theirs, how, labels, value)

    assert expositions(ours.registry) == expositions(theirs.registry)


def test_an_increase_is_seen_by_the_next_scrape_only() -> None:
    """What was read stays as it was: a scrape is a moment."""
    ours = Ours()
    ours.spread.observe(0.05)
    before = {metric.name: metric for metric in ours.registry.collect()}

    ours.spread.observe(0.05)

    assert before["spread"].samples[1].value == 1


def test_a_series_began_when_it_was_first_counted() -> None:
    """`_created` is how a scraper tells a new series from a reset one."""
    ours, theirs = Ours(), Theirs()
    ours.counts.inc("a", "ok")
    theirs.counts.labels("a", "ok").inc()

    name, labels = "counts_created", {"plan": "a", "outcome": "ok"}
    mine = ours.registry.get_sample_value(name, labels)
    assert mine == pytest.approx(theirs.registry.get_sample_value(name, labels), abs=5)


def test_the_wrong_number_of_labels_is_an_error() -> None:
    """And leaves no series behind."""
    ours = Ours()

    mistakes: list[Callable[[], None]] = [
        lambda: ours.counts.inc("a"),
        lambda: ours.counts.add(1, "a", "b", "c"),
        lambda: ours.count.inc("a"),
        lambda: ours.levels.set(1),
        lambda: ours.spreads.observe(1, "a"),
    ]
    for mistake in mistakes:
        with pytest.raises(ValueError, match="has the labels"):
            mistake()

    assert expositions(ours.registry) == expositions(Ours().registry)


def test_a_counter_cannot_shrink() -> None:
    """A scraper would take it for a restart."""
    ours = Ours()

    with pytest.raises(ValueError, match="cannot shrink"):
        ours.count.add(-1)


def test_a_name_is_taken_once() -> None:
    """Also by what prometheus_client's own instruments are called."""
    ours = Ours()

    for taken in ("count", "level", "spread"):
        with pytest.raises(ValueError, match="Duplicated"):
            Gauge(taken, TEXT, registry=ours.registry)
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus_client.Gauge("count_total", TEXT, registry=ours.registry)


@pytest.mark.parametrize("buckets", [(2, 1), (1, 1), (-1, 1), (1, float("inf"))])
def test_buckets_must_ascend_from_zero(buckets: tuple[float, ...]) -> None:
    """The last, without an end, is added to them."""
    with pytest.raises(ValueError, match="must ascend"):
        Histogram("spread", TEXT, buckets=buckets, registry=CollectorRegistry())


def test_the_last_traced_value_of_a_bucket_is_its_exemplar() -> None:
    """From a slow request to its trace, by one click; only OpenMetrics can say it."""
    ours = Ours()
    ours.spread.observe(0.05, trace_id="a" * 32)
    ours.spread.observe(0.07, trace_id="b" * 32)
    ours.spread.observe(0.06)
    ours.spread.observe(3)

    plain, _, openmetrics = expositions(ours.registry)
    [line] = [line for line in openmetrics.splitlines() if "trace_id" in line]
    assert line.startswith('spread_bucket{le="0.1"} 3.0 # {trace_id="' + "b" * 32)
    assert "trace_id" not in plain


def test_what_is_followed_is_read_at_each_scrape() -> None:
    """And asked for nothing in between."""
    registry, level = CollectorRegistry(), [1.0]
    followed = Followed(registry)
    followed.add_one(definitions.LEASES_ABANDONED, lambda: level[0])
    followed.add(definitions.POLICY, lambda: [(("abc",), 1.0)])
    level[0] = 7

    assert registry.get_sample_value(definitions.LEASES_ABANDONED.name) == 7
    labels = {"digest": "abc"}
    assert registry.get_sample_value(definitions.POLICY.name, labels) == 1


def test_series_of_a_name_can_be_forgotten() -> None:
    """Only those; they begin at nothing if the name comes back."""
    ours = Ours()
    ours.counts.inc("a", "ok")
    ours.counts.inc("b", "ok")
    ours.counts.forget("plan", "a")

    def count(plan: str) -> float | None:
        labels = {"plan": plan, "outcome": "ok"}
        return ours.registry.get_sample_value("counts_total", labels)

    assert (count("a"), count("b")) == (None, 1)
    ours.counts.inc("a", "ok")
    assert count("a") == 1


@given(st.lists(VALUES, max_size=40))
def test_values_counted_together_are_in_the_buckets_of_each_alone(
    values: list[float],
) -> None:
    one_by_one, together = Ours(), Ours()
    for value in values:
        one_by_one.spreads.observe(value, "a", "ok")
    if values:
        together.spreads.observe_all(list(values), "a", "ok")

    assert buckets(together) == buckets(one_by_one)
    assert sum_of(together) == pytest.approx(sum_of(one_by_one))


def buckets(ours: Ours) -> list[str]:
    lines = expositions(ours.registry)[0].splitlines()
    return [line for line in lines if "_sum" not in line]


def sum_of(ours: Ours) -> float | None:
    labels = {"plan": "a", "outcome": "ok"}
    return ours.registry.get_sample_value("spreads_sum", labels)


def test_events_counted_together_are_counted_by_their_labels() -> None:
    ours = Ours()
    ours.counts.count([("a", "ok"), ("b", "ok"), ("a", "ok")])
    value = ours.registry.get_sample_value
    assert value("counts_total", {"plan": "a", "outcome": "ok"}) == 2
    assert value("counts_total", {"plan": "b", "outcome": "ok"}) == 1
