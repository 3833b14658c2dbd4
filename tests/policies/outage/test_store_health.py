"""What clients and operators are told of a store that is, or may be, away."""

from __future__ import annotations

import asyncio

import pytest

from policies.outage.breaker import Breaker
from policies.outage.store_health import AWAY_FIRST_MS, AWAY_LAST_MS, StoreHealth
from policies.store.errors import Reason, StoreUnavailable


class Watched:
    """A store's health by a clock that a test moves."""

    def __init__(self) -> None:
        self.now_us = 1_000_000
        self.health = StoreHealth(lambda: self.now_us, Breaker())

    def fail(self) -> None:
        self.health.failed(StoreUnavailable("timeout"), asked_us=self.now_us)

    def open(self) -> None:
        while self.health.is_closed:
            self.fail()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_nothing_is_exact_before_the_store_was_heard(watched: Watched) -> None:
    """A replica that starts beside a dead store must not claim its limits hold."""
    assert (watched.health.is_exact, watched.health.reason) == (False, "not heard yet")

    watched.health.succeeded(asked_us=watched.now_us)

    assert (watched.health.is_exact, watched.health.reason) == (True, "")


@pytest.mark.parametrize(
    ("away_s", "expected_ms"),
    [
        pytest.param(0, AWAY_FIRST_MS, id="just-lost"),
        pytest.param(1, AWAY_FIRST_MS, id="a-moment"),
        pytest.param(7, 7_000, id="as-long-as-it-was-away"),
        pytest.param(600, AWAY_LAST_MS, id="for-long"),
    ],
)
def test_wait_grows_with_the_outage(
    watched: Watched, away_s: int, expected_ms: int
) -> None:
    """An SDK that asks three times lives through a fail-over."""
    watched.open()
    watched.now_us += away_s * 1_000_000

    assert watched.health.wait_ms() == expected_ms


def test_wait_is_never_shorter_than_to_the_next_probe(watched: Watched) -> None:
    """Nobody learns of the store's return before it was looked for."""
    watched.open()
    watched.health.next_probe_us = watched.now_us + 5_000_000

    assert watched.health.wait_ms() > 5_000


def test_single_failure_is_over_soon(watched: Watched) -> None:
    """While the breaker is closed the next call is asked of the store."""
    watched.health.succeeded(asked_us=watched.now_us)
    watched.fail()

    assert watched.health.wait_ms() < 1_000


@pytest.mark.parametrize(
    ("reason", "is_readable"),
    [("timeout", False), ("connection", False), ("memory", True), ("replica", True)],
)
def test_store_that_cannot_be_written_is_still_asked_for_keys(
    watched: Watched, reason: Reason, is_readable: bool
) -> None:
    """A full store must not make good keys unknown."""
    while watched.health.is_closed:
        error = StoreUnavailable(reason)
        watched.health.failed(error, asked_us=watched.now_us)

    assert watched.health.is_readable == is_readable


def test_what_passes_a_full_store_does_not_make_it_healthy(watched: Watched) -> None:
    """Renewals succeed where every admission fails."""
    for _ in range(3):
        watched.now_us += 1
        full = StoreUnavailable("memory")
        watched.health.failed(full, asked_us=watched.now_us)
        watched.health.succeeded(asked_us=watched.now_us, needs_memory=False)

    assert not watched.health.is_closed


async def test_store_that_returns_full_is_sent_settlements(watched: Watched) -> None:
    """Also where it was away for another reason at first: they make room in it."""
    watched.open()
    waiting = asyncio.ensure_future(watched.health.wait_for_settlements())
    await asyncio.sleep(0)
    assert not waiting.done()

    watched.health.begin_recovery()
    watched.health.fail_recovery("memory")

    async with asyncio.timeout(1):
        await waiting
