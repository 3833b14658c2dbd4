"""
Everything one workspace has used and holds, in memory, and what a demand meets there.

Meters are kept by dimension, apart from the plan that is in force: usage survives a
plan change in either direction. A key with limits of its own is a second scope beside
the workspace's, with meters and places of its own.
"""

from __future__ import annotations

from collections.abc import Set
from copy import copy
from itertools import islice
from operator import itemgetter
from typing import Final

from policies.dimensions import dimension_of
from policies.in_force import InForce, Places, Slot
from policies.ledger import (
    Admitted,
    Demand,
    KeyScope,
    Rejected,
    RejectionReason,
    Usage,
)
from policies.meters import NEVER_MS, Account, Meter, copy_of, new_meter
from policies.plans import Concurrency, KeyLimits, Limit, Plan, Rate

_ANY_PLACES: Final = Concurrency(limit=0)
_NONE: Final[frozenset[str]] = frozenset()
_NOTHING_IN_FORCE: Final = InForce((), ())


class Scope:
    """The workspace itself, or one key of it: its meters, its places, its limits."""

    __slots__ = ("_meters", "beside", "in_force", "limits", "places", "slots")

    def __init__(self, scope_id: str) -> None:
        self.places = Places(scope_id)
        self.limits: Plan | KeyLimits | None = None
        # The limits in force, in the order they are reported.
        self.slots: list[Slot] = []
        # All that a demand of this scope has to pass; of a key also its workspace's,
        # and those that were in force there when this was made.
        self.in_force = _NOTHING_IN_FORCE
        self.beside: InForce | None = None
        self._meters: dict[str, Meter] = {}

    def copy(self) -> Scope:
        copied = Scope(self.places.scope_id)
        copied.places = copy(self.places)
        copied._meters = {key: copy_of(meter) for key, meter in self._meters.items()}
        return copied

    def follow(self, limits: Plan | KeyLimits, now_us: int) -> None:
        """Put limits in force; usage in each of their dimensions is kept."""
        self.limits = limits
        self.slots = [self._slot(limit, now_us) for limit in limits.limits]
        self.in_force = InForce((self.places,), self.slots)
        self.beside = None

    def follow_beside(self, workspace: InForce) -> None:
        """Let a key's demands pass the workspace's limits as well."""
        places, slots = (
            (*workspace.places, self.places),
            (*workspace.slots, *self.slots),
        )
        self.in_force = InForce(places, slots)
        self.beside = workspace

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting it."""
        return max((meter.idle_at_us() for meter in self._meters.values()), default=0)

    def _slot(self, limit: Limit, now_us: int) -> Slot:
        dimension = dimension_of(limit, self.places.scope_id)
        if isinstance(limit, Concurrency):
            return Slot(limit, dimension, self.places, None)
        meter = self._meters.get(dimension)
        if meter is None:
            meter = self._meters[dimension] = new_meter(limit, now_us)
        meter.follow(limit, now_us)
        return Slot(limit, dimension, self.places, meter)


# Keys that a new one looks at, to drop those that are idle: as in sweeping.lua.
MOST_SWEPT: Final = 4


class HeldLease:
    """A lease as its ledger keeps it; abandoned ones for as long as they may return."""

    __slots__ = (
        "accounts",
        "charged",
        "expires_us",
        "places",
        "progress_tokens",
        "refused",
        "reserve",
        "takes_place",
    )

    def __init__(
        self,
        reserve: Usage,
        places: tuple[Places, ...],
        expires_us: int,
        takes_place: bool,
    ) -> None:
        self.reserve = reserve
        self.takes_place = takes_place
        # What the accounts stand at for this lease.
        self.charged = reserve
        self.places = places
        self.expires_us = expires_us
        # 0 is no report: nothing that has reached an upstream is free.
        self.progress_tokens = 0
        # Whether it counts tokens or else requests, and where.
        self.accounts: list[tuple[bool, Account]] = []
        # Dimensions whose limit, in shadow, would have refused it.
        self.refused: Set[str] = _NONE

    def correct(self, actual: Usage, now_us: int) -> None:
        """Replace what the accounts were charged."""
        more_tokens = actual.tokens - self.charged.tokens
        more_requests = actual.requests - self.charged.requests
        for is_of_tokens, account in self.accounts:
            more = more_tokens if is_of_tokens else more_requests
            if more:
                account.adjust(more, now_us)
        self.charged = actual

    def take_places(self, sign: int = 1) -> None:
        """Take the places, or with the sign -1 give them back."""
        if not self.takes_place:
            for places in self.places:
                places.passing += sign
            return
        for places in self.places:
            is_beyond = bool(self.refused) and (
                dimension_of(_ANY_PLACES, places.scope_id) in self.refused
            )
            places.take(self.reserve, is_beyond_shadow=is_beyond, sign=sign)

    def abandon(self) -> None:
        """Settle at the last progress, or at the reservation if there was none."""
        tokens = self.progress_tokens or self.reserve.tokens
        # As of the instant it ended, which may be long past: what it tops up has been
        # paid back by refill since then.
        self.correct(Usage(self.reserve.requests, tokens), self.expires_us)
        self.take_places(-1)


class WorkspaceUsage:
    """The scopes of one workspace."""

    __slots__ = ("_keys", "_workspace", "owed_until_us")

    def __init__(self) -> None:
        # Until when an owner that was taken for dead may come back and correct.
        self.owed_until_us = 0
        self._workspace = Scope("")
        self._keys: dict[str, Scope] = {}

    @property
    def keys(self) -> int:
        """How many keys with limits of their own are remembered."""
        return len(self._keys)

    @property
    def held(self) -> int:
        return self._workspace.places.held

    @property
    def is_awaited(self) -> bool:
        """Whether somebody has still to settle here."""
        return self._workspace.places.is_awaited

    def follow(self, plan: Plan, key: KeyScope | None, now_us: int) -> InForce:
        """Put limits in force; what a demand of this key has to pass."""
        workspace = self._workspace
        if plan is not workspace.limits:
            workspace.follow(plan, now_us)
        if key is None:
            return workspace.in_force
        scope = self._keys.get(key.id)
        if scope is None:
            self._sweep(now_us)
            scope = self._keys[key.id] = Scope(key.id)
        if key.limits is not scope.limits:
            scope.follow(key.limits, now_us)
        if scope.beside is not workspace.in_force:
            scope.follow_beside(workspace.in_force)
        return scope.in_force

    def look(self, plan: Plan, key: KeyScope | None, now_us: int) -> InForce:
        """As `follow`, for a look that leaves no trace here."""
        scope = self._keys.get(key.id) if key else None
        if plan is self._workspace.limits and (
            key is None or (scope is not None and scope.limits is key.limits)
        ):
            # In force already, so following changes nothing.
            return self.follow(plan, key, now_us)
        copied = WorkspaceUsage()
        copied._workspace = self._workspace.copy()
        if scope is not None:
            copied._keys[scope.places.scope_id] = scope.copy()
        return copied.follow(plan, key, now_us)

    def _sweep(self, now_us: int) -> None:
        """Drop some idle keys, so that those that came and went do not add up."""
        if self.owed_until_us > now_us:
            # The owner of an abandoned lease may come back to any of them.
            return
        for scope_id in list(islice(self._keys, MOST_SWEPT)):
            scope = self._keys.pop(scope_id)
            if scope.places.is_awaited or scope.idle_at_us() > now_us:
                # To the end, so that the next sweep looks at others.
                self._keys[scope_id] = scope

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting the workspace."""
        scopes = (self._workspace, *self._keys.values())
        return max(self.owed_until_us, *(scope.idle_at_us() for scope in scopes))


def charge(
    reserve: Usage,
    in_force: InForce,
    refused: list[Slot],
    now_us: int,
    end_us: int,
    *,
    takes_place: bool = True,
) -> HeldLease:
    """Spend everywhere but where it was refused, and take the places."""
    lease = HeldLease(reserve, in_force.places, end_us, takes_place)
    if refused:
        lease.refused = {slot.dimension for slot in refused}
    for slot, meter in in_force.metered:
        if slot.dimension not in lease.refused:
            units = reserve.tokens if slot.is_of_tokens else reserve.requests
            account = meter.charge(units, now_us)
            lease.accounts.append((slot.is_of_tokens, account))
    lease.take_places()
    return lease


def admitted(
    lease_id: str, in_force: InForce, refused: Set[str], now_us: int
) -> Admitted:
    """A yes, with the shadow limits that would have said no."""
    shadowed: tuple[Limit, ...] = ()
    if refused:
        shadowed = tuple(s.limit for s in in_force.shadow if s.dimension in refused)
    return Admitted(
        lease_id=lease_id, states=in_force.states(now_us), shadowed=shadowed
    )


def rejected(demand: Demand, in_force: InForce, now_us: int) -> Rejected:
    """A no, naming the limit that binds longest; of equals the first."""
    reserve = demand.reserve
    states = in_force.states(now_us)
    waits_ms = [
        (slot.wait_ms(reserve, now_us), slot, state)
        for slot, state in in_force.short_of(states, reserve)
        if not slot.is_shadow
    ]
    wait_ms, slot, state = max(waits_ms, key=itemgetter(0))
    reason: RejectionReason
    if wait_ms >= NEVER_MS:
        reason = "too_large"
    elif slot.meter is None:
        reason = "concurrency"
    else:
        reason = "rate" if isinstance(slot.limit, Rate) else "quota"
    return Rejected(
        reason=reason,
        binding=state,
        requested=slot.units(reserve),
        retry_after_ms=wait_ms if reason in ("rate", "quota") else None,
        states=states,
    )
