"""
Where workspaces stood when the store last said so.

What a share starts from: a month that is spent must not open again because the store
is gone. Bounded; whoever was not seen for longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from policies.ledger import NOTHING, Demand, LimitState, Usage
from policies.outage.running_leases import RunningLease

# The workspaces of an hour on a busy replica, in about 10 MB. One that was forgotten
# starts from an untouched share.
MAX_STANDINGS: Final = 10_000


class Standing:
    """The limits of a workspace, or of one of its keys, as of a decision."""

    __slots__ = ("at_us", "more", "states")

    def __init__(self, states: tuple[LimitState, ...], at_us: int) -> None:
        self.states = states
        self.at_us = at_us
        # What became known since: settled above its reservation, or below.
        self.more = NOTHING


class LastKnown:
    """The last exact standing of each workspace, and of each key with own limits."""

    def __init__(self, max_standings: int = MAX_STANDINGS) -> None:
        self.max_standings = max_standings
        self._standings: OrderedDict[tuple[str, str], Standing] = OrderedDict()

    def __len__(self) -> int:
        return len(self._standings)

    def note(self, demand: Demand, states: tuple[LimitState, ...], now_us: int) -> None:
        """Remember what an exact decision said."""
        self._keep((demand.workspace, ""), Standing(states, now_us))
        if demand.key is not None:
            of_key = tuple(state for state in states if state.is_of_key)
            self._keep((demand.workspace, demand.key.id), Standing(of_key, now_us))

    def correct(self, lease: RunningLease, actual: Usage) -> None:
        """A lease was settled, of which the store's figures may hold a part already."""
        demand = lease.demand
        for scope_id in ("", demand.key.id) if demand.key else ("",):
            standing = self._standings.get((demand.workspace, scope_id))
            if standing is None:
                continue
            before, more = lease.counted_at(standing.at_us), standing.more
            standing.more = Usage(
                more.requests + actual.requests - before.requests,
                more.tokens + actual.tokens - before.tokens,
            )

    def find(self, workspace: str, scope_id: str = "") -> Standing | None:
        """`scope_id` is a key's; empty for the workspace itself."""
        return self._standings.get((workspace, scope_id))

    def _keep(self, key: tuple[str, str], standing: Standing) -> None:
        standings = self._standings
        standings[key] = standing
        standings.move_to_end(key)
        if len(standings) > self.max_standings:
            standings.popitem(last=False)
