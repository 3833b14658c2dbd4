"""Several processes' metrics as one: to the unit, whoever counted what and is gone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from gateway.telemetry.busiest import MOST_MODELS, MOST_WORKSPACES, PERIOD_S
from gateway.telemetry.definition import OTHER
from gateway.telemetry.definitions import (
    FIRST_TOKEN,
    TOKENS,
    WORKSPACE_REQUESTS,
    WORKSPACE_USED,
)
from gateway.telemetry.exposition import families_of, render, snapshot_of
from gateway.telemetry.merging import Exemplar, Family, Point, Snapshot
from gateway.telemetry.metrics import Telemetry
from gateway.telemetry.tally import Tally
from tests.unit.counted import ROUTES, Counts


def values(snapshot: Snapshot) -> dict[tuple[Any, ...], float]:
    """Every sample but the moments of birth."""
    return {
        (family.kind, point.name, *sorted(point.labels.items())): point.value
        for family in snapshot
        for point in family.points
        if not point.name.endswith("_created")
    }


def of_kind(
    samples: dict[tuple[Any, ...], float], *, is_gauge: bool
) -> dict[tuple[Any, ...], float]:
    return {k: v for k, v in samples.items() if (k[0] == "gauge") == is_gauge}


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(ROUTES),
        st.integers(0, 80),
        st.sampled_from(["go on", "be heard", "end"]),
    )
)


@settings(deadline=None)
@given(STEPS)
def test_many_processes_count_as_one_that_did_everything(
    steps: list[tuple[int, str, int, str]],
) -> None:
    """However often each is heard; but nobody stands anywhere who is dead."""
    slots, one, tally = [Counts() for _ in range(4)], Counts(), Tally()
    for slot, route, eighths, then in steps:
        slots[slot].update(route, eighths)
        one.update(route, eighths)
        if then != "go on":
            tally.hear(slot, slots[slot].snapshot())
        if then == "end":
            tally.forget(slot)
            slots[slot] = Counts()
    living = Tally()
    for slot, counts in enumerate(slots):
        for each in (tally, living):
            each.hear(slot, counts.snapshot())

    shown = values(tally.snapshot())
    expected = of_kind(values(one.snapshot()), is_gauge=False)
    assert expected == of_kind(shown, is_gauge=False)
    assert of_kind(values(living.snapshot()), is_gauge=True) == of_kind(
        shown, is_gauge=True
    )


SECONDS = st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1e9), st.booleans()))


@given(SECONDS)
def test_no_sum_falls_by_its_last_bit(
    seconds: list[tuple[int, float, bool]],
) -> None:
    """A counter that does has begun anew for Prometheus, whoever ended meanwhile."""
    tally, stood, shown = Tally(), [0.0] * 3, [0.0]
    for process, more, ends in seconds:
        stood[process] += more
        point = Point("f_total", {}, stood[process])
        tally.hear(process, [Family("f", "F.", "counter", [point])])
        if ends:
            tally.forget(process)
            stood[process] = 0.0
        shown.append(tally.snapshot()[0].points[0].value)

    assert all(before <= after for before, after in pairwise(shown))


def requests_of(**workspaces: float) -> Snapshot:
    """What a process says of its busiest workspaces."""
    name, used = WORKSPACE_REQUESTS, WORKSPACE_USED
    points = [
        Point(name.name, {"workspace": each, "decision": "admitted"}, count)
        for each, count in workspaces.items()
    ]
    standing = [
        Point(used.name, {"workspace": each, "limit": "l"}, 0.5)
        for each in workspaces
        if each != OTHER
    ]
    return [
        Family(name.family, name.text, name.kind, points),
        Family(used.family, used.text, used.kind, standing),
    ]


def shown_of(tally: Tally, name: str) -> dict[str, float]:
    return {
        point.labels["workspace"]: point.value
        for family in tally.snapshot()
        for point in family.points
        if point.name == name
    }


def test_a_name_that_loses_its_place_in_one_takes_nothing_from_another() -> None:
    """Its series would fall, which is a restart to Prometheus."""
    tally = Tally()
    tally.hear(1, requests_of(acme=100))
    tally.hear(2, requests_of(acme=200))
    tally.hear(1, requests_of(other=3))
    assert {"acme": 300, "other": 3} == shown_of(tally, WORKSPACE_REQUESTS.name)

    # And has its place again, from nought.
    tally.hear(1, requests_of(acme=5, other=3))
    assert 305 == shown_of(tally, WORKSPACE_REQUESTS.name)["acme"]


def test_no_more_names_than_one_process_has() -> None:
    """The first take the places, what grows of others is nobody's by name."""
    tally = Tally()
    for process in range(1, 5):
        names = {f"ws-{process}-{n}": 1.0 for n in range(MOST_WORKSPACES)}
        tally.hear(process, requests_of(**names, _other=7))
        if process % 2:
            tally.forget(process)

    shown = shown_of(tally, WORKSPACE_REQUESTS.name)
    first = {f"ws-1-{n}" for n in range(MOST_WORKSPACES)}
    assert {*first, OTHER} == set(shown)
    assert 4 * 7 + 3 * MOST_WORKSPACES == shown[OTHER]
    assert {} == shown_of(tally, WORKSPACE_USED.name)


def test_a_busier_name_takes_a_place_and_begins_from_nought() -> None:
    """What was counted as `_other` stays there; the displaced's series end."""
    now_s = [0.0]
    tally = Tally(now_s=lambda: now_s[0])
    names = {f"ws-{n}": 10.0 for n in range(MOST_WORKSPACES)} | {"ws-0": 1.0}
    tally.hear(1, requests_of(**names))
    tally.hear(2, requests_of(late=50))
    now_s[0] = PERIOD_S
    tally.hear(2, requests_of(late=60))

    shown = shown_of(tally, WORKSPACE_REQUESTS.name)
    assert "ws-0" not in shown
    assert (10, 50) == (shown["late"], shown[OTHER])
    assert {"late", *names} - {"ws-0"} == set(shown_of(tally, WORKSPACE_USED.name))


def test_a_series_that_begins_late_is_whole() -> None:
    """Buckets that did not grow since are part of it, in order, and when it began."""
    now_s = [0.0]
    tally, telemetry = Tally(now_s=lambda: now_s[0]), Telemetry()
    other = Telemetry()
    for number in range(MOST_MODELS):
        other.first_token(f"m-{number}", 0.1)
    tally.hear(1, snapshot_of(other.registry.collect()))
    for waited_s in (0.03, 7.0, 7.0, 7.0):
        telemetry.first_token("late", waited_s)
        tally.hear(2, snapshot_of(telemetry.registry.collect()))
    now_s[0] += PERIOD_S
    telemetry.first_token("late", 7.0)
    tally.hear(2, snapshot_of(telemetry.registry.collect()))
    telemetry.first_token("late", 0.03)
    tally.hear(2, snapshot_of(telemetry.registry.collect()))

    families = families_of(tally.snapshot())
    body, _ = render(families, "application/openmetrics-text")
    # Strict about order; neither has types.
    list(text_string_to_metric_families(body.decode()))  # type: ignore[no-untyped-call]
    samples = [
        sample.name.removeprefix(FIRST_TOKEN.name) + sample.labels.get("le", "")
        for family in families
        for sample in family.samples
        if sample.labels.get("model") == "late"
        and sample.name.startswith(FIRST_TOKEN.name)
    ]
    bounds = map(floatToGoString, (*FIRST_TOKEN.buckets, float("inf")))
    assert [*(f"_bucket{b}" for b in bounds), "_count", "_sum", "_created"] == samples


def test_models_are_bounded_by_what_they_answer() -> None:
    tally = Tally()
    for process in range(1, 4):
        points = [
            Point(TOKENS.name, {"model": f"m-{process}-{n}"}, 5.0)
            for n in range(MOST_MODELS)
        ]
        tally.hear(process, [Family(TOKENS.family, "", "counter", points)])

    (family,) = tally.snapshot()
    assert {*(f"m-1-{n}" for n in range(MOST_MODELS)), OTHER} == {
        point.labels["model"] for point in family.points
    }
    assert sum(p.value for p in family.points) == 3 * 5 * MOST_MODELS


@pytest.mark.parametrize("is_first_older", [False, True])
def test_a_series_is_as_old_as_its_oldest_part(*, is_first_older: bool) -> None:
    tally = Tally()
    for process, at in enumerate((3, 7) if is_first_older else (7, 3)):
        for counted in (2, 4):
            points = [Point("x_total", {}, counted), Point("x_created", {}, at)]
            tally.hear(process, [Family("x", "", "counter", points)])

    assert [("x_total", 8), ("x_created", 3)] == [
        (point.name, point.value) for point in tally.snapshot()[0].points
    ]


def test_the_newest_exemplar_stays() -> None:
    tally = Tally()
    for process, at in enumerate((1.0, 3.0, 2.0)):
        exemplar = Exemplar({"trace_id": str(at)}, 1, at)
        point = Point("x_total", {}, 1, exemplar)
        tally.hear(process, [Family("x", "", "counter", [point])])
        tally.forget(process)

    (point,) = tally.snapshot()[0].points
    assert point.exemplar is not None
    assert {"trace_id": "3.0"} == point.exemplar.labels
