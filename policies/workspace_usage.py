"""
Everything one workspace has used and holds, in memory, and what a demand meets there.

Meters are kept by dimension, apart from the plan that is in force: usage survives a
plan change in either direction. A key with limits of its own is a second scope beside
the workspace's, with meters and places of its own.
"""

from __future__ import annotations

from copy import copy
from itertools import islice
from typing import Final

import msgspec

from policies.dimensions import dimension_of
from policies.ledger import (
    Admitted,
    Demand,
    KeyScope,
    LimitState,
    Rejected,
    RejectionReason,
    Usage,
)
from policies.meters import (
    NEVER_MS,
    UNKNOWN_MS,
    Account,
    Meter,
    copy_of,
    new_meter,
    units_of,
)
from policies.plans import Concurrency, KeyLimits, Limit, Plan, Rate


class Places:
    """The leases of a workspace or of one key of it, and what they reserved."""

    __slots__ = ("beyond_shadow", "held", "reserved", "scope_id")

    def __init__(self, scope_id: str) -> None:
        # A key's, or empty for the workspace itself.
        self.scope_id = scope_id
        self.held = 0
        # Of them, those a concurrency limit in shadow would have refused.
        self.beyond_shadow = 0
        # What they were charged at their admission.
        self.reserved = Usage(0, 0)

    def taken(self, limit: Limit) -> int:
        # In shadow, a lease that enforcement would have refused takes no place; once
        # the limit is enforced, every lease that runs does.
        return self.held - self.beyond_shadow if limit.shadow else self.held

    def take(self, reserve: Usage, *, is_beyond_shadow: bool, sign: int = 1) -> None:
        """One lease more, or with the sign -1 one less."""
        self.held += sign
        self.beyond_shadow += sign * is_beyond_shadow
        self.reserved = Usage(
            self.reserved.requests + sign * reserve.requests,
            self.reserved.tokens + sign * reserve.tokens,
        )


class Slot(msgspec.Struct, frozen=True):
    """One limit in force and where it is counted; concurrency has no meter."""

    limit: Limit
    dimension: str
    places: Places
    meter: Meter | None

    def fits(self, demanded: Usage, now_us: int) -> bool:
        """Whether the limit has room for it now."""
        if self.meter is not None:
            return self.meter.fits(units_of(self.limit, demanded), now_us)
        return self.places.taken(self.limit) < self.limit.limit

    def wait_ms(self, demanded: Usage, now_us: int) -> int:
        """How long until what does not fit now would."""
        if self.meter is None:
            # Where there is no place at all, none will ever be free.
            return UNKNOWN_MS if self.limit.limit > 0 else NEVER_MS
        return self.meter.wait_ms(units_of(self.limit, demanded), now_us)

    def state(self, now_us: int) -> LimitState:
        """Where the limit stands."""
        limit, meter = self.limit, self.meter
        if meter is None:
            used = reserved = self.places.taken(limit)
            reset_after_ms = 0
        else:
            used = meter.used(now_us)
            reserved = min(used, units_of(limit, self.places.reserved))
            reset_after_ms = meter.reset_after_ms(now_us)
        return LimitState(
            limit=limit,
            capacity=limit.capacity if isinstance(limit, Rate) else limit.limit,
            used=used,
            reserved=reserved,
            is_of_key=bool(self.places.scope_id),
            reset_after_ms=reset_after_ms,
        )


class Scope:
    """The workspace itself, or one key of it: its meters, its places, its limits."""

    __slots__ = ("_limits", "_meters", "places", "slots")

    def __init__(self, scope_id: str) -> None:
        self.places = Places(scope_id)
        # The limits in force, in the order they are reported.
        self.slots: list[Slot] = []
        self._limits: Plan | KeyLimits | None = None
        self._meters: dict[str, Meter] = {}

    def copy(self) -> Scope:
        copied = Scope(self.places.scope_id)
        copied.places = copy(self.places)
        copied._meters = {key: copy_of(meter) for key, meter in self._meters.items()}
        return copied

    def follow(self, limits: Plan | KeyLimits, now_us: int) -> None:
        """Put limits in force; usage in each of their dimensions is kept."""
        if limits is not self._limits:
            self._limits = limits
            self.slots = [self._slot(limit, now_us) for limit in limits.limits]

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


_ANY_PLACES: Final = Concurrency(limit=0)

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
    )

    def __init__(self, reserve: Usage, places: list[Places], expires_us: int) -> None:
        self.reserve = reserve
        # What the accounts stand at for this lease.
        self.charged = reserve
        self.places = places
        self.expires_us = expires_us
        # 0 is no report: nothing that has reached an upstream is free.
        self.progress_tokens = 0
        self.accounts: list[tuple[Limit, Account]] = []
        # Dimensions whose limit, in shadow, would have refused it.
        self.refused: set[str] = set()

    def correct(self, actual: Usage, now_us: int) -> None:
        """Replace what the accounts were charged."""
        for limit, account in self.accounts:
            account.adjust(
                units_of(limit, actual) - units_of(limit, self.charged), now_us
            )
        self.charged = actual

    def take_places(self, sign: int = 1) -> None:
        """Take the places, or with the sign -1 give them back."""
        for places in self.places:
            is_beyond = dimension_of(_ANY_PLACES, places.scope_id) in self.refused
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

    def copy(self) -> WorkspaceUsage:
        """For a look that leaves no trace here."""
        copied = WorkspaceUsage()
        copied._workspace = self._workspace.copy()
        copied._keys = {scope_id: key.copy() for scope_id, key in self._keys.items()}
        return copied

    @property
    def keys(self) -> int:
        """How many keys with limits of their own are remembered."""
        return len(self._keys)

    @property
    def held(self) -> int:
        return self._workspace.places.held

    def follow(self, plan: Plan, key: KeyScope | None, now_us: int) -> list[Scope]:
        """Put limits in force; the scopes that a demand of this key has to pass."""
        self._workspace.follow(plan, now_us)
        if key is None:
            return [self._workspace]
        scope = self._keys.get(key.id)
        if scope is None:
            self._sweep(now_us)
            scope = self._keys[key.id] = Scope(key.id)
        scope.follow(key.limits, now_us)
        return [self._workspace, scope]

    def _sweep(self, now_us: int) -> None:
        """Drop some idle keys, so that those that came and went do not add up."""
        if self.owed_until_us > now_us:
            # The owner of an abandoned lease may come back to any of them.
            return
        for scope_id in list(islice(self._keys, MOST_SWEPT)):
            scope = self._keys.pop(scope_id)
            if scope.places.held or scope.idle_at_us() > now_us:
                # To the end, so that the next sweep looks at others.
                self._keys[scope_id] = scope

    def idle_at_us(self) -> int:
        """From when on nothing would be lost by forgetting the workspace."""
        scopes = (self._workspace, *self._keys.values())
        return max(self.owed_until_us, *(scope.idle_at_us() for scope in scopes))


def slots_of(scopes: list[Scope]) -> list[Slot]:
    return [slot for scope in scopes for slot in scope.slots]


def charge(
    reserve: Usage, scopes: list[Scope], refused: list[Slot], now_us: int, end_us: int
) -> HeldLease:
    """Spend everywhere but where it was refused, and take the places."""
    lease = HeldLease(reserve, [scope.places for scope in scopes], end_us)
    lease.refused = {slot.dimension for slot in refused}
    for slot in slots_of(scopes):
        if slot.meter is not None and slot.dimension not in lease.refused:
            account = slot.meter.charge(units_of(slot.limit, reserve), now_us)
            lease.accounts.append((slot.limit, account))
    lease.take_places()
    return lease


def admitted(
    lease_id: str, slots: list[Slot], refused: set[str], now_us: int
) -> Admitted:
    """A yes, with the shadow limits that would have said no."""
    return Admitted(
        lease_id=lease_id,
        states=tuple(slot.state(now_us) for slot in slots),
        shadowed=tuple(
            slot.limit
            for slot in slots
            if slot.limit.shadow and slot.dimension in refused
        ),
    )


def rejected(demand: Demand, slots: list[Slot], now_us: int) -> Rejected:
    """A no, naming the limit that binds longest; of equals the first."""
    reserve = demand.reserve
    waits_ms = [
        (slot.wait_ms(reserve, now_us), index)
        for index, slot in enumerate(slots)
        if not slot.limit.shadow and not slot.fits(reserve, now_us)
    ]
    wait_ms, index = max(waits_ms, key=lambda wait: wait[0])
    slot = slots[index]
    reason: RejectionReason
    if wait_ms >= NEVER_MS:
        reason = "too_large"
    elif slot.meter is None:
        reason = "concurrency"
    else:
        reason = "rate" if isinstance(slot.limit, Rate) else "quota"
    states = tuple(each.state(now_us) for each in slots)
    return Rejected(
        reason=reason,
        binding=states[index],
        requested=units_of(slot.limit, reserve),
        retry_after_ms=wait_ms if reason in ("rate", "quota") else None,
        states=states,
    )
