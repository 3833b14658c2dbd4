"""The census of workers: rounds that end, and counts that stay."""

from __future__ import annotations

import msgspec
import pytest

from gateway.telemetry.merging import Family, Point, Snapshot
from gateway.workers.census import (
    HUNG_ROUNDS,
    LOOK_EVERY_S,
    ROUND_WITHIN_S,
    Census,
)


def counted(requests: float, in_flight: float = 0.0) -> bytes:
    """A worker's snapshot, as it arrives."""
    snapshot = [
        Family("requests", "", "counter", [Point("requests_total", {}, requests)]),
        Family("in_flight", "", "gauge", [Point("in_flight", {}, in_flight)]),
    ]
    return msgspec.msgpack.encode(snapshot)


class Workers:
    """A census with a clock, and what it asked and told whom."""

    def __init__(self, *pids: int) -> None:
        self.now_s = 0.0
        self.asked: list[tuple[int, int]] = []
        self.told: list[tuple[int, int, dict[str, float]]] = []
        self.given_up: list[int] = []
        self.census = Census(self, own=lambda: [], now_s=lambda: self.now_s)
        for pid in pids:
            self.census.join(pid)

    def ask(self, pid: int, round_number: int) -> None:
        self.asked.append((pid, round_number))

    def tell(self, pid: int, number: int, snapshot: msgspec.Raw) -> None:
        families = msgspec.msgpack.decode(snapshot, type=Snapshot)
        points = {p.name: p.value for family in families for p in family.points}
        self.told.append((pid, number, points))

    def give_up(self, pid: int) -> None:
        self.given_up.append(pid)

    def run_round(self, *answering: int) -> None:
        """A round that these answer, and nobody else in time."""
        self.census.begin()
        for pid in answering:
            self.census.hear(pid, self.asked[-1][1], counted(1))
        self.now_s += ROUND_WITHIN_S
        self.census.look_at_clock()


def test_totals_are_told_when_all_have_answered() -> None:
    workers = Workers(1, 2)
    workers.census.want(1, 7)
    workers.census.hear(1, 1, counted(3, 1))
    assert workers.told == []

    workers.census.hear(2, 1, counted(4, 1))

    assert [(1, 7, {"requests_total": 7, "in_flight": 2})] == workers.told


def test_who_asks_during_a_round_is_told_after_the_next() -> None:
    """What this round was told may be older than the question."""
    workers = Workers(1, 2)
    workers.census.begin()
    workers.census.hear(1, 1, counted(1))
    workers.census.want(2, 5)
    workers.census.want(2, 6)
    workers.census.hear(2, 1, counted(1))

    assert workers.told == []
    assert [(1, 1), (2, 1), (1, 2), (2, 2)] == workers.asked
    workers.census.hear(1, 2, counted(10))
    workers.census.hear(2, 2, counted(1))
    assert [(2, 6, {"requests_total": 11, "in_flight": 0})] == workers.told


def test_who_does_not_answer_counts_with_what_it_said() -> None:
    workers = Workers(1, 2)
    workers.census.hear(2, 0, counted(40))
    workers.census.want(1, 1)
    workers.census.hear(1, 1, counted(2))
    workers.now_s = ROUND_WITHIN_S - 0.01
    workers.census.look_at_clock()
    assert workers.told == []

    workers.now_s = ROUND_WITHIN_S
    workers.census.look_at_clock()

    assert [(1, 1, {"requests_total": 42, "in_flight": 0})] == workers.told
    assert workers.census.ends_at_s is None


def test_an_answer_that_comes_late_is_kept() -> None:
    workers = Workers(1)
    workers.census.begin()
    workers.now_s = ROUND_WITHIN_S
    workers.census.look_at_clock()

    workers.census.hear(1, 1, counted(9))

    assert 9 == workers.census.totals()[0].points[0].value


@pytest.mark.parametrize("is_asked", [False, True])
def test_the_dead_count_and_stand_nowhere(*, is_asked: bool) -> None:
    workers = Workers(1, 2, 3)
    workers.census.hear(2, 0, counted(5, 5))
    workers.census.hear(3, 0, counted(6, 6))
    if is_asked:
        workers.census.want(1, 1)
        workers.census.want(2, 1)
    workers.census.leave(2)
    workers.census.leave(3)
    if not is_asked:
        workers.census.want(1, 1)
    workers.census.hear(1, 1, counted(1, 1))
    # Of one that is dead: it is counted already.
    workers.census.hear(2, 1, counted(5, 5))

    assert [(1, 1, {"requests_total": 12, "in_flight": 1})] == workers.told


def test_what_cannot_be_read_costs_the_others_nothing() -> None:
    workers = Workers(1, 2)
    workers.census.hear(1, 0, b"\xc1")
    workers.census.hear(2, 0, counted(4))

    assert 4 == workers.census.totals()[0].points[0].value


def test_who_stays_silent_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    workers = Workers(1, 2)
    for round_number in (1, 2, 3):
        workers.census.begin()
        workers.census.hear(1, round_number, counted(1))
        workers.now_s += ROUND_WITHIN_S
        workers.census.look_at_clock()

    assert len(caplog.records) == 1


def test_nobody_is_asked_where_nobody_is() -> None:
    workers = Workers()

    workers.census.begin()

    assert workers.census.ends_at_s is None


def test_what_was_said_is_looked_at_though_nobody_asks() -> None:
    """Else a name could lose its place and have it again, and nobody would notice."""
    workers = Workers(1)

    def say(requests: float) -> None:
        workers.census.begin()
        workers.census.hear(1, len(workers.asked), counted(requests))

    say(10)
    workers.now_s = LOOK_EVERY_S
    say(12)
    # Begun anew, and grown further than it was.
    say(0)
    workers.now_s = 2 * LOOK_EVERY_S
    say(0)
    say(15)

    assert 12 + 15 == workers.census.totals()[0].points[0].value


def test_the_dead_are_not_remembered_one_by_one() -> None:
    workers = Workers(1)
    workers.census.hear(1, 0, counted(1))
    alone = workers.census.totals()
    for pid in range(2, 50):
        workers.census.join(pid)
        workers.census.hear(pid, 0, counted(0, 3))
        workers.census.leave(pid)

    assert alone == workers.census.totals()


def test_who_hangs_is_given_up_once() -> None:
    workers = Workers(1, 2)
    for _ in range(HUNG_ROUNDS - 1):
        workers.run_round(1)
    assert workers.given_up == []

    for _ in range(HUNG_ROUNDS):
        workers.run_round(1)
    assert workers.given_up == [2]


def test_who_answers_at_last_is_not_given_up() -> None:
    """However late: its event loop goes on."""
    workers = Workers(1, 2)
    for _ in range(3):
        for _ in range(HUNG_ROUNDS - 1):
            workers.run_round(1)
        workers.census.hear(2, 0, counted(1))

    assert workers.given_up == []
