"""
The ledger of all replicas: the port of `ledger.py` over scripts in Redis.

The scripts decide, by the server's clock and atomically; here a demand becomes their
arguments, and the state they reply becomes the same meters the ledger in memory has, so
that both word their answers alike. Every failure of the store is a StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec

from policies import gcra
from policies.dimensions import dimension_of
from policies.key_names import ledger_keys
from policies.ledger import (
    Decision,
    Demand,
    KeyScope,
    LeaseSettled,
    LimitState,
    Usage,
)
from policies.memory_ledger import LEASE_TTL_MS, bounded, checked
from policies.meters import QuotaMeter, RateMeter, Tally
from policies.plans import MAX_LIMIT, KeyLimits, Limit, Plan, Quota, Rate
from policies.store.scripts import Script, load_script
from policies.store.store import Store
from policies.workspace_usage import (
    Places,
    Scope,
    Slot,
    admitted,
    rejected,
    slots_of,
)

Mode: TypeAlias = Literal["admit", "adopt", "preview"]

# Each joined with what it shares with the others: a script can load no other file.
_SHARED: Final = (
    "numbers",
    "windows",
    "usage",
    "accounts",
    "leases",
    "reclaim",
    "sweeping",
    "writing",
)
ADMIT: Final[Script] = load_script(*_SHARED, "limits", "room", "charging", "admit")
# Both also where memory is full: a lease that cannot be settled never gives any back.
RENEW: Final[Script] = load_script(*_SHARED, "renew", is_allowed_when_full=True)
SETTLE: Final[Script] = load_script(*_SHARED, "settle", is_allowed_when_full=True)
LEDGER_SCRIPTS: Final = (ADMIT, RENEW, SETTLE)

REJECTED: Final = 0
SETTLED_BEFORE: Final = 2
# Code and instant, then four figures for each of two scopes, then three a limit.
PLACES_AT: Final = 2
LIMITS_AT: Final = 10


class RedisLedger:
    """Counts in a store that every replica shares; closes what it is given."""

    def __init__(self, store: Store, lease_ttl_ms: int = LEASE_TTL_MS) -> None:
        self._store = store
        self._lease_ttl_ms = lease_ttl_ms
        self._ttl_us = lease_ttl_ms * 1000
        # A release's own: another one's may run on the same data at the same time.
        self.admit_script, self.renew_script, self.settle_script = LEDGER_SCRIPTS

    @property
    def lease_ttl_ms(self) -> int:
        return self._lease_ttl_ms

    async def admit(self, demand: Demand) -> Decision:
        """
        Check every limit, then charge all of them or none, in one round trip.

        Raises LeaseSettled for a lease id that was settled within the last ttl.
        """
        reply = await self._ask("admit", demand)
        if reply[0] == SETTLED_BEFORE:
            raise LeaseSettled(demand.lease_id)
        return _decision(demand, reply)

    async def adopt(self, demand: Demand, age_ms: int = 0) -> bool:
        """Hold and charge a lease that was admitted elsewhere; False if it ended."""
        reply = await self._ask("adopt", demand, max(0, age_ms))
        return reply[0] != SETTLED_BEFORE

    async def preview(self, demand: Demand) -> Decision:
        """What `admit` would decide now; charges nothing and ignores the lease id."""
        return _decision(demand, await self._ask("preview", demand))

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """Keep a lease alive and note its progress, which never falls."""
        progress = bounded(Usage(0, tokens), MAX_LIMIT).tokens
        reply = await self._store.run(
            self.renew_script,
            ledger_keys(workspace),
            (lease_id, progress, self._ttl_us),
        )
        return bool(reply[0])

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        """Replace the reservation by what was used and free the lease, once."""
        used = bounded(actual, MAX_LIMIT)
        reply = await self._store.run(
            self.settle_script,
            ledger_keys(workspace),
            (lease_id, used.requests, used.tokens, self._ttl_us),
        )
        return bool(reply[0])

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        """Where the workspace stands under this plan, and the key; charges nothing."""
        look = Demand(
            workspace=workspace, plan=plan, lease_id="", reserve=Usage(0, 0), key=key
        )
        reply = await self._ask("preview", look)
        return tuple(slot.state(reply[1]) for slot in _slots(look, reply))

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    async def _ask(self, mode: Mode, demand: Demand, age_ms: int = 0) -> Sequence[int]:
        reserve = checked(demand.reserve)
        key = demand.key
        arguments: tuple[str | int | bytes, ...] = (
            mode,
            demand.lease_id,
            reserve.requests,
            reserve.tokens,
            self._ttl_us,
            age_ms * 1000,
            key.id if key else "",
            _packed_limits(demand.plan, key.limits if key else None),
        )
        reply: Sequence[int] = await self._store.run(
            self.admit_script, ledger_keys(demand.workspace), arguments
        )
        return reply


# Plans and keys are few and live long; hashing one is cheaper than packing it.
@lru_cache(maxsize=4096)
def _packed_limits(plan: Plan, key: KeyLimits | None) -> bytes:
    """Every limit of both, as admit.lua says."""
    limits = [_described(limit, is_key=False) for limit in plan.limits]
    limits += [_described(limit, is_key=True) for limit in key.limits] if key else []
    return msgspec.msgpack.encode(limits)


def _described(limit: Limit, *, is_key: bool) -> list[str | int | bool]:
    kind, of_tokens = "leases", False
    period: int | str = 0
    capacity_us, rest = 0, 0
    if isinstance(limit, Rate):
        kind, of_tokens = "rate", limit.of == "tokens"
        period = limit.period_s * gcra.US_PER_S
        capacity_us, rest = divmod(gcra.pace_of(limit).capacity_ticks, limit.limit)
    elif isinstance(limit, Quota):
        kind, period, of_tokens = "quota", limit.per, limit.of == "tokens"
    name, most = dimension_of(limit), limit.limit
    is_shadow = limit.shadow
    return [
        name, kind, of_tokens, is_key, most, period, capacity_us, rest, is_shadow
    ]  # fmt: skip


def _decision(demand: Demand, reply: Sequence[int]) -> Decision:
    now_us, slots = reply[1], _slots(demand, reply)
    if reply[0] == REJECTED:
        return rejected(demand, slots, now_us)
    refused = {
        slot.dimension
        for slot, is_refused in zip(slots, reply[LIMITS_AT + 2 :: 3], strict=True)
        if is_refused
    }
    return admitted(demand.lease_id, slots, refused, now_us)


def _slots(demand: Demand, reply: Sequence[int]) -> list[Slot]:
    """The meters as the script left them."""
    now_us = reply[1]
    workspace = Scope("")
    _fill_places(workspace.places, reply[PLACES_AT:])
    workspace.follow(demand.plan, now_us)
    scopes = [workspace]
    if demand.key is not None:
        key = Scope(demand.key.id)
        _fill_places(key.places, reply[PLACES_AT + 4 :])
        key.follow(demand.key.limits, now_us)
        scopes.append(key)
    slots = slots_of(scopes)
    for number, slot in enumerate(slots):
        first = LIMITS_AT + 3 * number
        _fill_meter(slot, reply[first], reply[first + 1], now_us)
    return slots


def _fill_places(places: Places, figures: Sequence[int]) -> None:
    places.held, places.beyond_shadow = figures[0], figures[1]
    places.reserved = Usage(figures[2], figures[3])


def _fill_meter(slot: Slot, first: int, second: int, now_us: int) -> None:
    match slot.meter:
        case RateMeter() as rate:
            rate.tat = (now_us + first) * rate.pace.ticks_per_us + second
        case QuotaMeter(tally=Tally() as tally):
            tally.used = first
        case None:
            pass
