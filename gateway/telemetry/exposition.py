"""
Metrics as a scraper reads them, and as one process tells them to another.

Who serves `/metrics` asks for families and knows not whose they are: one process' own,
or those of all workers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from prometheus_client.core import Exemplar as ShownExemplar
from prometheus_client.core import Metric, Sample
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway.telemetry.merging import Exemplar, Family, Point, Snapshot

Families: TypeAlias = Iterable[Metric]
# What is asked of prometheus_client, by type and version.
_FORMS: Final = {
    ("application/openmetrics-text", ""): "application/openmetrics-text",
    **{
        ("application/openmetrics-text", version): (
            f"application/openmetrics-text;version={version}"
        )
        for version in ("1.0.0", "2.0.0")
    },
    ("text/plain", "1.0.0"): "text/plain;version=1.0.0",
    **{("text/plain", version): "" for version in ("", "0.0.4")},
    **{(any_form, ""): "" for any_form in ("text/*", "*/*")},
}

AskFamilies: TypeAlias = Callable[[], Awaitable[Families]]


class _Collected(Collector):
    """Families that are there already, where an encoder wants to collect them."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Families:
        return self._families


def render(families: Families, accept: str) -> tuple[bytes, str]:
    """The metrics and their content type, in the form the scraper asked for."""
    encode, content_type = choose_encoder(_preferred(accept))
    return encode(_Collected(families)), content_type


def _preferred(accept: str) -> str:
    """
    The one form that is to be asked of prometheus_client; the plain one is "".

    It takes the first that it knows, whatever the weights say, and believes any version
    from 1.0.0 on, which it then claims to have written.
    """
    best, highest = "", 0.0
    for each in accept.split(","):
        form, *rest = each.split(";")
        said = [part.strip().lower().partition("=") for part in rest]
        named = {name: value.strip('"') for name, _, value in said}
        known = _FORMS.get((form.strip().lower(), named.get("version", "")))
        weight = _weight(named.get("q", "1"))
        if known is not None and weight > highest:
            escaping = f";escaping={named['escaping']}" if "escaping" in named else ""
            best, highest = known and known + escaping, weight
    return best


def _weight(text: str) -> float:
    """RFC 9110, section 12.4.2; nonsense is not preferred to anything."""
    try:
        return min(float(text), 1.0)
    except ValueError:
        return 0.0


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
