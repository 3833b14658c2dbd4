"""
What a call of the mesh asks: whose limits, and how many requests and tokens of them.

A descriptor names its caller by `api_key` (a key, or the whole Authorization header),
or by `workspace` and `plan`, which the mesh's own configuration vouches for. With
`of: tokens` its hits are tokens; `report: "true"` says that they are spent already. A
descriptor that names nobody is another limiter's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from policies.ledger import NOTHING, Usage
from policies.plans import Unit

# A mesh that sends more is misconfigured: routes have a handful of limits.
MOST_DESCRIPTORS: Final = 32
# Of one call; more than any answer has tokens.
MOST_HITS: Final = 1_000_000_000

_UNITS: Final[dict[str, Unit]] = {"requests": "requests", "tokens": "tokens"}


class InvalidAsking(Exception):
    """The mesh's configuration asks for what cannot be decided; the text says what."""


class Caller(NamedTuple):
    """Who is to be limited: a key, or a workspace on a plan."""

    api_key: str = ""
    workspace: str = ""
    plan: str = ""


class Asked(NamedTuple):
    """One descriptor."""

    caller: Caller
    of: Unit
    hits: int
    is_report: bool


class Asking(NamedTuple):
    """All descriptors of one call, of one caller."""

    caller: Caller
    # As they came; None for one that names nobody.
    asked: tuple[Asked | None, ...]

    @property
    def demand(self) -> Usage:
        """What has to be admitted."""
        return _sum(each for each in self.asked if each and not each.is_report)

    @property
    def report(self) -> Usage:
        """What has been spent already."""
        return _sum(each for each in self.asked if each and each.is_report)

    @property
    def look(self) -> Usage | None:
        """
        What must have room although not all is spent; None if nothing is so asked.

        Beside the demand it is one of each unit that is asked about with no hits: to a
        demand for none of its units every limit says yes, however far it is overdrawn.
        """
        units = {
            each.of
            for each in self.asked
            if each and not each.is_report and not each.hits
        }
        if not units:
            return None
        demand = self.demand
        return Usage(
            max(demand.requests, int("requests" in units)),
            max(demand.tokens, int("tokens" in units)),
        )


def _sum(asked: Iterable[Asked]) -> Usage:
    total = NOTHING
    for each in asked:
        if each.of == "requests":
            total = Usage(total.requests + each.hits, total.tokens)
        else:
            total = Usage(total.requests, total.tokens + each.hits)
    return total


def read(request: Any) -> Asking | None:
    """The request as it is meant; None if no descriptor names anybody."""
    if not request.descriptors:
        raise InvalidAsking("there are no descriptors")
    if len(request.descriptors) > MOST_DESCRIPTORS:
        raise InvalidAsking(f"there are more than {MOST_DESCRIPTORS} descriptors")
    # 0 is proto3's word for unsaid.
    hits = request.hits_addend or 1
    asked = tuple(_read(descriptor, hits) for descriptor in request.descriptors)
    callers = {each.caller for each in asked if each is not None}
    if len(callers) > 1:
        raise InvalidAsking(
            "the descriptors name several callers, whose limits are not one decision"
        )
    return Asking(callers.pop(), asked) if callers else None


def _read(descriptor: Any, hits: int) -> Asked | None:
    entries = {entry.key: entry.value for entry in descriptor.entries}
    caller = _caller(entries)
    if caller is None:
        return None
    of = _UNITS.get(entries.get("of", "requests"))
    if of is None:
        # No value is repeated that a route may have taken from its client's headers.
        raise InvalidAsking("`of` is neither requests nor tokens")
    report = entries.get("report", "false")
    if report not in {"true", "false"}:
        raise InvalidAsking("`report` is neither true nor false")
    if descriptor.HasField("hits_addend"):
        hits = descriptor.hits_addend.value
    if hits > MOST_HITS:
        raise InvalidAsking(f"hits_addend={hits} is more than {MOST_HITS}")
    return Asked(caller, of, hits, report == "true")


def _caller(entries: dict[str, str]) -> Caller | None:
    if "api_key" in entries:
        return Caller(api_key=entries["api_key"])
    workspace, plan = entries.get("workspace"), entries.get("plan")
    if workspace is None and plan is None:
        return None
    if workspace is None or plan is None:
        raise InvalidAsking("a workspace needs a plan, and a plan a workspace")
    return Caller(workspace=workspace, plan=plan)
