"""Names that callers make up, and which of them have series of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.busiest import MAX_CANDIDATES, PERIOD_S, Busiest
from gateway.telemetry.definition import OTHER


class Names:
    """Three places, with a clock that is set and the names that were displaced."""

    def __init__(self, most: int = 3) -> None:
        self.now_s = 0.0
        self.displaced: list[str] = []
        self.busiest = Busiest(
            most, displaced=self.displaced.append, now_s=lambda: self.now_s
        )

    def meet(self, name: str, times: int = 1) -> str:
        label = ""
        for _ in range(times):
            label = self.busiest.count(name)
        return label

    def end_period(self) -> None:
        self.now_s += PERIOD_S


def test_the_first_ones_take_the_free_places() -> None:
    """A small deployment sees all of its names, from their first request on."""
    names = Names()

    assert [names.meet(name) for name in "abcd"] == ["a", "b", "c", OTHER]
    assert (names.busiest.label("a"), names.busiest.label("d")) == ("a", OTHER)


def test_a_busier_name_takes_the_place_of_the_idlest() -> None:
    """Once a period has shown it; what it displaced is told, to be forgotten."""
    names = Names()
    names.meet("a", 50)
    names.meet("b", 40)
    names.meet("c", 2)
    names.meet("d", 30)

    names.end_period()
    assert names.meet("d") == "d"
    assert names.displaced == ["c"]
    assert names.busiest.label("c") == OTHER


def test_one_that_is_as_busy_displaces_nobody() -> None:
    """Else two alike would change places with every period."""
    names = Names()
    for name in "abc":
        names.meet(name, 10)
    names.meet("d", 18)

    names.end_period()
    names.meet("d")
    assert names.displaced == []


def test_last_weeks_busiest_makes_room() -> None:
    """Counts are halved with each period."""
    names = Names(most=1)
    names.meet("old", 1000)
    for _ in range(12):
        names.meet("new", 20)
        names.end_period()
        names.meet("new")

    assert names.displaced == ["old"]


def test_last_weeks_busiest_makes_room_though_nobody_was_without_a_place() -> None:
    """Periods end by the clock, not when the first name comes that has no place."""
    names = Names(most=1)
    names.meet("old", 1000)
    for _ in range(12):
        names.end_period()
        names.busiest.look_at_clock()
    names.meet("new", 20)
    names.end_period()

    assert names.meet("new") == "new"


def test_ten_thousand_made_up_names_displace_nobody_who_is_busy() -> None:
    """A flood of junk takes no place, and no memory beyond a bound."""
    names = Names()
    for number in range(10_000):
        names.meet(f"junk-{number}")
        names.meet("real", 1)
        if number % 1000 == 0:
            names.end_period()

    names.end_period()
    names.meet("junk-0")
    assert "real" in names.busiest
    assert len(names.busiest._others) <= MAX_CANDIDATES


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=200))
def test_never_more_names_than_places(steps: list[tuple[str, bool]]) -> None:
    """Whatever comes in whichever order; every label is a name met or `_other`."""
    names = Names()
    seen = {OTHER}
    for name, ends in steps:
        if ends:
            names.end_period()
        seen.add(name)
        label = names.meet(name)
        assert label in {name, OTHER}
        assert len([n for n in "abcdefgh" if n in names.busiest]) <= 3
