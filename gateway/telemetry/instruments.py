"""
Counters, gauges and histograms that cost a request nanoseconds.

prometheus_client takes a lock for each increase, makes text of every label value and
asks a histogram's buckets one by one: 21 us a request. These took 10 one by one, and
2.2 since they are updated by the batch (`noting.py`; both in a loop of nothing else).
What a scraper reads is the same to the byte; a test compares them.

No locks: every instrument is updated and read on the event loop's thread alone.
"""

from __future__ import annotations

import abc
import collections
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Final, Generic, TypeAlias, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric, Sample
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from gateway.telemetry.definition import Definition

Labels = tuple[str, ...]


class _Count:
    """One series of a counter."""

    __slots__ = ("created_s", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.created_s = time.time()


class _Level:
    """One series of a gauge."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class _Distribution:
    """One series of a histogram; each count is of its own bucket alone."""

    __slots__ = ("counts", "created_s", "exemplars", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0
        self.created_s = time.time()
        # By bucket, the last one that was traced.
        self.exemplars: dict[int, Exemplar] = {}


_Series = TypeVar("_Series", _Count, _Level, _Distribution)


class _Instrument(Collector, abc.ABC, Generic[_Series]):
    """A metric with its series by their label values, shown when somebody scrapes."""

    kind: str

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._series: dict[Labels, _Series] = {}
        if not self._labels:
            # Without labels there is one series from the start, before its first event.
            self._begin(())
        registry.register(self)

    @abc.abstractmethod
    def _new_series(self) -> _Series: ...

    @abc.abstractmethod
    def _samples(self, labels: dict[str, str], series: _Series) -> Iterator[Sample]:
        """What a scraper reads of a series, in prometheus_client's order."""

    def _begin(self, labels: Labels) -> _Series:
        """
        The series of label values that were not seen before.

        The only place where they are looked at: the wrong number is never in the dict.
        """
        if len(labels) != len(self._labels):
            raise ValueError(f"{self._name} has the labels {self._labels}: {labels}")
        series = self._series[labels] = self._new_series()
        return series

    def forget(self, label: str, value: str) -> None:
        """Show the series no more that say so of this label."""
        at = self._labels.index(label)
        self._series = {
            labels: series
            for labels, series in self._series.items()
            if labels[at] != value
        }

    def describe(self) -> Iterable[Metric]:
        """What a registry asks for, so that no name is taken twice."""
        return [Metric(self._name, self._text, self.kind)]

    def collect(self) -> Iterator[Metric]:
        metric = Metric(self._name, self._text, self.kind)
        for labels, series in self._series.items():
            named = dict(zip(self._labels, labels, strict=True))
            metric.samples.extend(self._samples(named, series))
        yield metric

    def _created(self, labels: dict[str, str], created_s: float) -> Iterator[Sample]:
        if _IS_CREATED_SHOWN:
            yield Sample(f"{self._name}_created", labels, created_s)


class Counter(_Instrument[_Count]):
    """What only ever grows."""

    kind = "counter"

    def inc(self, *labels: str) -> None:
        """Count one."""
        # An `except` that nothing enters is free; a look-up that allows for new series
        # (`dict.get` and a test) costs 40 ns more.
        try:
            self._series[labels].value += 1
        except KeyError:
            self._begin(labels).value += 1

    def add(self, amount: float, *labels: str) -> None:
        """Count several at once."""
        if amount < 0:
            raise ValueError(f"{self._name} cannot shrink: {amount}")
        try:
            self._series[labels].value += amount
        except KeyError:
            self._begin(labels).value += amount

    def count(self, events: Iterable[Labels]) -> None:
        """Count one for each, by its label values."""
        for labels, times in collections.Counter(events).items():
            self.add(times, *labels)

    def _new_series(self) -> _Count:
        return _Count()

    def _samples(self, labels: dict[str, str], series: _Count) -> Iterator[Sample]:
        yield Sample(f"{self._name}_total", labels, series.value)
        yield from self._created(labels, series.created_s)


class Gauge(_Instrument[_Level]):
    """What stands somewhere, now."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        try:
            self._series[labels].value = value
        except KeyError:
            self._begin(labels).value = value

    def _new_series(self) -> _Level:
        return _Level()

    def _samples(self, labels: dict[str, str], series: _Level) -> Iterator[Sample]:
        yield Sample(self._name, labels, series.value)


class Histogram(_Instrument[_Distribution]):
    """How often values fell into which bucket, and their sum."""

    kind = "histogram"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._bounds = [*map(float, buckets), math.inf]
        if self._bounds != sorted(set(self._bounds)) or self._bounds[0] < 0:
            raise ValueError(f"{name}'s buckets must ascend from 0 or more")
        # As prometheus_client writes them; it has no types for how.
        self._le = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        super().__init__(name, text, labels, registry=registry)

    def observe(self, value: float, *labels: str, trace_id: str | None = None) -> None:
        """Count a value; of a trace that somebody can look up, name it."""
        try:
            series = self._series[labels]
        except KeyError:
            series = self._begin(labels)
        series.total += value
        if trace_id is not None:
            at = bisect_left(self._bounds, value)
            named = {"trace_id": trace_id}
            series.exemplars[at] = Exemplar(named, value, time.time())
        # The first bound that is not below the value: `le` is "less or equal". What is
        # no number is in no bucket.
        if not math.isnan(value):
            series.counts[bisect_left(self._bounds, value)] += 1

    def observe_all(self, values: list[float], *labels: str) -> None:
        """Count values of one series, none of which is a NaN; they are sorted here."""
        try:
            series = self._series[labels]
        except KeyError:
            series = self._begin(labels)
        series.total += math.fsum(values)
        values.sort()
        counts, begin, end = series.counts, 0, len(values)
        for at, bound in enumerate(self._bounds):
            above = bisect_right(values, bound, begin)
            counts[at] += above - begin
            if above == end:
                break
            begin = above

    def _new_series(self) -> _Distribution:
        return _Distribution(len(self._bounds))

    def _samples(
        self, labels: dict[str, str], series: _Distribution
    ) -> Iterator[Sample]:
        name = self._name
        # The exposition's buckets hold what the ones below them hold.
        sums = list(accumulate(series.counts))
        for at, (le, count) in enumerate(zip(self._le, sums, strict=True)):
            exemplar = series.exemplars.get(at)
            yield Sample(f"{name}_bucket", labels | {"le": le}, count, None, exemplar)
        yield Sample(f"{name}_count", labels, sums[-1])
        yield Sample(f"{name}_sum", labels, series.total)
        yield from self._created(labels, series.created_s)


# One series: its label values, and where it stands.
Reading: TypeAlias = tuple[Labels, float]


class Followed(Collector):
    """
    What something else counts anyway, read from it when somebody scrapes.

    Reading costs the requests nothing. Each definition is followed once.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._read: list[tuple[Definition, Callable[[], Iterable[Reading]]]] = []
        registry.register(self)

    def add(self, what: Definition, read: Callable[[], Iterable[Reading]]) -> None:
        """Show these series from now on, as they stand at each scrape."""
        self._read.append((what, read))

    def add_one(self, what: Definition, read: Callable[[], float]) -> None:
        """Show a metric that has no labels."""
        self.add(what, lambda: [((), float(read()))])

    def describe(self) -> Iterable[Metric]:
        return ()  # nothing is followed yet when a registry asks

    def collect(self) -> Iterator[Metric]:
        for what, read in self._read:
            metric = Metric(what.family, what.text, what.kind)
            for labels, value in read():
                named = dict(zip(what.labels, labels, strict=True))
                metric.add_sample(what.name, named, value)
            yield metric


def _is_created_shown() -> bool:
    """Whether prometheus_client shows when a series began: a setting of the process."""
    probe: Any = prometheus_client.Counter("probe", "Never shown.", registry=None)
    return any(s.name == "probe_created" for m in probe.collect() for s in m.samples)


# PROMETHEUS_DISABLE_CREATED_SERIES is read once by prometheus_client too.
_IS_CREATED_SHOWN: Final = _is_created_shown()
