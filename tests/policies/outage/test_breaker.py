"""When the breaker opens, and what it takes to close it."""

from __future__ import annotations

import pytest

from policies.outage.breaker import Breaker


def fail(breaker: Breaker, at: int, asked: int | None = None) -> bool:
    return breaker.fail("timeout", asked_us=at if asked is None else asked, now_us=at)


@pytest.fixture
def opened() -> Breaker:
    """Opened at 30, by the third of three failures."""
    breaker = Breaker(failures_to_open=3)
    assert [fail(breaker, at) for at in (10, 20, 30)] == [False, False, True]
    return breaker


def test_failures_in_a_row_open_it(opened: Breaker) -> None:
    """The third failure opens, and says why and that it did."""
    assert (opened.state, opened.reason, opened.opened_total) == ("open", "timeout", 1)


def test_success_between_failures_starts_the_count_anew() -> None:
    """A store that fails now and then stays in use."""
    breaker = Breaker(failures_to_open=2)
    for at in range(10, 100, 20):
        assert not fail(breaker, at)
        breaker.succeed(asked_us=at + 1)

    assert breaker.is_closed


def test_calls_that_fail_together_are_one_failure() -> None:
    """A pipe lost with a hundred calls in it is no outage."""
    breaker = Breaker(failures_to_open=2)
    for asked in range(100):
        assert not fail(breaker, 100, asked)
    assert breaker.is_closed

    assert fail(breaker, 150, 100)


def test_reply_to_an_older_question_is_no_success() -> None:
    """What was answered before the failure says nothing of the time after it."""
    breaker = Breaker(failures_to_open=2)
    fail(breaker, 10)
    breaker.succeed(asked_us=9)

    assert fail(breaker, 20)


def test_only_a_recovery_closes_it(opened: Breaker) -> None:
    """Neither a stray reply nor an impatient caller does."""
    opened.succeed(asked_us=40)
    states = [opened.state]
    with pytest.raises(ValueError, match="only a recovery"):
        opened.close(50)

    opened.begin_recovery()
    states.append(opened.state)
    assert opened.close(50) == 20

    assert [*states, opened.state] == ["open", "recovering", "closed"]


def test_recovery_that_fails_leaves_it_open(opened: Breaker) -> None:
    """A store that answers a ping and nothing else is still away."""
    opened.begin_recovery()
    opened.fail_recovery("replica")

    assert (opened.state, opened.reason) == ("open", "replica")


def test_failures_of_calls_older_than_the_return_do_not_count(opened: Breaker) -> None:
    """What was still under way when the store came back cannot open it again."""
    opened.begin_recovery()
    opened.close(50)
    assert not any(fail(opened, 60, asked) for asked in (31, 40, 49))

    assert [fail(opened, at) for at in (70, 80, 90)] == [False, False, True]
    assert opened.opened_total == 2


def test_time_away_adds_up(opened: Breaker) -> None:
    """Every microsecond that was not exact counts, recoveries included."""
    assert (opened.open_for_us(34), opened.degraded_us(34)) == (4, 4)
    opened.begin_recovery()
    opened.close(50)
    assert (opened.open_for_us(60), opened.degraded_us(60)) == (0, 20)
    for at in (100, 110, 120):
        fail(opened, at)

    assert (opened.open_for_us(121), opened.degraded_us(121)) == (1, 21)


def test_steps_out_of_order_change_nothing() -> None:
    """A probe that nobody waits for, or a late failure of one, is ignored."""
    breaker = Breaker()
    breaker.begin_recovery()
    breaker.fail_recovery("timeout")

    assert breaker.is_closed
