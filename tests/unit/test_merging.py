"""What several processes say at one moment, as one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Info

from gateway.telemetry import definitions
from gateway.telemetry.exposition import families_of, render, snapshot_of
from gateway.telemetry.merging import (
    Exemplar,
    Family,
    Point,
    merge,
)
from gateway.telemetry.metrics import Telemetry
from tests.unit.counted import ROUTES, Counts

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
UPDATES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(ROUTES), st.integers(0, 80))
)


@settings(deadline=None)
@given(UPDATES)
def test_a_merge_is_shown_as_one_registry_is(
    updates: list[tuple[int, str, int]],
) -> None:
    """A scraper cannot tell the difference, in either form."""
    counts = Counts()
    for _, route, eighths in updates:
        counts.update(route, eighths)

    for accept in ("", OPENMETRICS):
        merged = families_of(merge([counts.snapshot()]))
        assert render(counts.registry.collect(), accept) == render(merged, accept)


def gauge_of(name: str, *levels: float) -> float:
    """What becomes of a gauge that processes show these levels of."""
    snapshots = [[Family(name, "", "gauge", [Point(name, {}, at)])] for at in levels]
    return merge(snapshots)[0].points[0].value


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(definitions.REQUESTS_IN_FLIGHT.name, 9, id="defined sum"),
        pytest.param(definitions.REPLICAS_SEEN.name, 5, id="defined max"),
        pytest.param(definitions.KEY_EXPIRY.name, 1, id="defined min"),
        pytest.param("process_resident_memory_bytes", 9, id="memory"),
        pytest.param("process_start_time_seconds", 1, id="start"),
        pytest.param("process_max_fds", 1, id="most descriptors"),
        pytest.param("what_nobody_defined", 9, id="unknown"),
    ],
)
def test_a_gauge_is_merged_as_it_is_defined(name: str, expected: float) -> None:
    assert expected == gauge_of(name, 3, 1, 5)


def test_a_series_is_as_old_as_its_oldest_part() -> None:
    points = [[Point("x_total", {}, 2), Point("x_created", {}, at)] for at in (7, 3)]

    merged = merge([[Family("x", "", "counter", each)] for each in points])

    assert [("x_total", 4), ("x_created", 3)] == [
        (point.name, point.value) for point in merged[0].points
    ]


def test_the_newest_exemplar_stays() -> None:
    exemplars = [Exemplar({"trace_id": str(at)}, 1, at) for at in (1.0, 3.0, 2.0)]
    snapshots = [
        [Family("x", "", "counter", [Point("x_total", {}, 1, exemplar)])]
        for exemplar in (None, *exemplars, None)
    ]

    body, _ = render(families_of(merge(snapshots)), OPENMETRICS)

    assert b'x_total 5.0 # {trace_id="3.0"} 1.0 3.0' in body


def test_an_exemplar_survives_the_way() -> None:
    point = Point("x_total", {}, 1.0, Exemplar({"trace_id": "1"}, 2.0))

    (there_and_back,) = snapshot_of(families_of([Family("x", "", "counter", [point])]))

    assert [point] == there_and_back.points


def test_versions_are_told_and_not_added() -> None:
    registry = CollectorRegistry()
    Info("build", "B.", registry=registry).info({"version": "1"})

    (build,) = merge([snapshot_of(registry.collect())] * 3)

    assert [1.0] == [point.value for point in build.points]


def test_a_gateway_of_one_process_is_one_worker() -> None:
    telemetry = Telemetry()

    def value(name: str) -> float | None:
        return telemetry.registry.get_sample_value(name)

    assert value(definitions.WORKERS.name) == 1
    assert value(definitions.WORKER_RESTARTS.name) == 0
    assert (value("process_cpu_seconds_total") or 0) > 0
