"""
Metrics as a scraper reads them, and as one process tells them to another.

Who serves `/metrics` asks for families and knows not whose they are: one process' own,
or those of all workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from prometheus_client.core import Exemplar as ShownExemplar
from prometheus_client.core import Metric, Sample
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.telemetry.merging import Exemplar, Family, Point, Snapshot

Families: TypeAlias = Iterable[Metric]
AskFamilies: TypeAlias = Callable[[], Awaitable[Families]]


class _Collected(Collector):
    """Families that are there already, where an encoder wants to collect them."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Families:
        return self._families


def render(families: Families, accept: str) -> tuple[bytes, str]:
    """The metrics and their content type, in the form the scraper asked for."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # prometheus_client reads versions as numbers; nonsense gets the plain form.
        encode, content_type = choose_encoder("")
    return encode(_Collected(families)), content_type


def snapshot_of(families: Families) -> Snapshot:
    """What another process can be told."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [_point(sample) for sample in metric.samples],
        )
        for metric in families
    ]


def families_of(snapshot: Snapshot) -> list[Metric]:
    """What was told, for an encoder."""
    return [_metric(family) for family in snapshot]


def _point(sample: Sample) -> Point:
    shown, exemplar = sample.exemplar, None
    if shown is not None:
        at_s = None if shown.timestamp is None else float(shown.timestamp)
        exemplar = Exemplar(dict(shown.labels), shown.value, at_s)
    return Point(sample.name, sample.labels, float(sample.value), exemplar)


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.text, family.kind)
    metric.samples = [
        Sample(point.name, point.labels, point.value, exemplar=_shown(point.exemplar))
        for point in family.points
    ]
    return metric


def _shown(exemplar: Exemplar | None) -> ShownExemplar | None:
    if exemplar is None:
        return None
    return ShownExemplar(exemplar.labels, exemplar.value, exemplar.at_s)
