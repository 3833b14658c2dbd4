"""
The ledger of all replicas: the port of `ledger.py` over scripts in Redis.

The scripts decide, by the server's clock and atomically; here a demand becomes their
arguments, and the state they reply becomes the same meters the ledger in memory has, so
that both word their answers alike. Every failure of the store is a StoreUnavailable.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Final, Literal, TypeAlias

import msgspec

from policies import gcra
from policies.dimensions import dimension_of
from policies.futures import to_future
from policies.in_force import InForce
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
from policies.plans import MAX_LIMIT, KeyLimits, Limit, Plan, Quota, Rate
from policies.store.link import pack_head, pack_parts
from policies.store.scripts import Script, load_script
from policies.store.store import Store
from policies.workspace_usage import WorkspaceUsage, admitted, rejected

Mode: TypeAlias = Literal["admit", "adopt", "preview"]

# Each joined with what it shares with the others: a script can load no other file.
_READING: Final = ("numbers", "windows", "usage", "accounts", "leases", "reclaim")
_WRITING: Final = ("packing", "sweeping", "writing")
_ADMITTING: Final = ("limits", "following", "room", "deciding", "charging", "admit")
ADMIT: Final[Script] = load_script(*_READING, *_ADMITTING, *_WRITING, name="admit")
# Both also where memory is full: a lease that cannot be settled never gives any back.
RENEW: Final[Script] = load_script(
    *_READING, "renew", *_WRITING, name="renew", is_allowed_when_full=True
)
SETTLE: Final[Script] = load_script(
    *_READING, "settle", *_WRITING, name="settle", is_allowed_when_full=True
)
LEDGER_SCRIPTS: Final = (ADMIT, RENEW, SETTLE)

# EVALSHA, the sha, the number of keys, three keys, and the scripts' arguments.
ADMIT_PARTS: Final = 6 + 8
SETTLE_PARTS: Final = 6 + 4

REJECTED: Final = 0
SETTLED_BEFORE: Final = 2
# Code and instant, then four figures for each of two scopes, then three a limit.
PLACES_AT: Final = 2
LIMITS_AT: Final = 10
# Plans and keys with limits of their own that are in use at once, in about 8 MB. One
# that is made anew costs its admission as much as four decisions.
MAX_FRAMES: Final = 4096


class Frame:
    """
    A plan and a key's limits, packed for a call and ready to word its reply.

    The meters are the script's, filled from each reply and read before the next one:
    nothing here awaits. With the packed calls, an admission costs 28 us of CPU where it
    was 70 when both were made anew.
    """

    __slots__ = ("_in_force", "_made_for", "_refused_at", "tail")

    def __init__(self, plan: Plan, key: KeyScope | None, ttl_us: int) -> None:
        limits = key.limits if key else None
        self._made_for = (plan, limits)
        self._in_force = WorkspaceUsage().follow(plan, key, 0)
        self._refused_at = [
            (LIMITS_AT + 3 * number + 2, slot.dimension)
            for number, slot in enumerate(self._in_force.slots)
            if slot.is_shadow
        ]
        scope = key.id if key else ""
        self.tail = pack_parts(ttl_us, 0, scope, _packed_limits(plan, limits))

    def decision(self, demand: Demand, reply: Sequence[int]) -> Decision:
        """What the script has decided, in the ledger's words."""
        in_force, now_us = self.filled(reply), reply[1]
        if reply[0] == REJECTED:
            return rejected(demand, in_force, now_us)
        dimensions = {name for at, name in self._refused_at if reply[at]}
        return admitted(demand.lease_id, in_force, dimensions, now_us)

    def filled(self, reply: Sequence[int]) -> InForce:
        """The limits in force, standing where the script left them."""
        in_force, now_us = self._in_force, reply[1]
        at = PLACES_AT
        for places in in_force.places:
            places.held, places.beyond_shadow = reply[at], reply[at + 1]
            places.requests, places.tokens = reply[at + 2], reply[at + 3]
            at += 4
        at = LIMITS_AT
        for slot in in_force.slots:
            if slot.meter is not None:
                slot.meter.load(reply[at], reply[at + 1], now_us)
            at += 3
        return in_force


class RedisLedger:
    """Counts in a store that every replica shares; closes what it is given."""

    def __init__(self, store: Store, lease_ttl_ms: int = LEASE_TTL_MS) -> None:
        self._store = store
        self._lease_ttl_ms = lease_ttl_ms
        self._ttl_us = lease_ttl_ms * 1000
        # A release's own: another one's may run on the same data at the same time.
        self.admit_script, self.renew_script, self.settle_script = LEDGER_SCRIPTS
        self._abandoned_total = 0
        self._settle_tail = pack_parts(self._ttl_us)
        self._frames: OrderedDict[tuple[int, int, str], Frame] = OrderedDict()

    @property
    def lease_ttl_ms(self) -> int:
        return self._lease_ttl_ms

    @property
    def abandoned_total(self) -> int:
        """Leases this instance found abandoned, since its start."""
        return self._abandoned_total

    async def admit(self, demand: Demand) -> Decision:
        """
        Check every limit, then charge all of them or none, in one round trip.

        Raises LeaseSettled for a lease id that was settled within the last ttl.
        """
        frame = self._frame(demand.plan, demand.key)
        if not demand.takes_place:
            return self._decided(demand, frame, await self._ask("admit", demand))
        reply: Sequence[int] = await self._store.begin(
            self.admit_script,
            ledger_keys(demand.workspace),
            _packed(
                _head(self.admit_script, demand.workspace, ADMIT_PARTS, "admit"),
                demand.lease_id,
                checked(demand.reserve),
                frame.tail,
            ),
        )
        if reply[-1]:
            self._abandoned_total += reply[-1]
        return self._decided(demand, frame, reply)

    @staticmethod
    def _decided(demand: Demand, frame: Frame, reply: Sequence[int]) -> Decision:
        if reply[0] == SETTLED_BEFORE:
            raise LeaseSettled(demand.lease_id)
        return frame.decision(demand, reply)

    async def adopt(self, demand: Demand, age_ms: int = 0) -> bool:
        """Hold and charge a lease that was admitted elsewhere; False if it ended."""
        reply = await self._ask("adopt", demand, max(0, age_ms))
        return reply[0] != SETTLED_BEFORE

    async def preview(self, demand: Demand) -> Decision:
        """What `admit` would decide now; charges nothing and ignores the lease id."""
        reply = await self._ask("preview", demand)
        return self._frame(demand.plan, demand.key).decision(demand, reply)

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """Keep a lease alive and note its progress, which never falls."""
        progress = bounded(Usage(0, tokens), MAX_LIMIT).tokens
        reply = await self._store.run(
            self.renew_script,
            ledger_keys(workspace),
            (lease_id, progress, self._ttl_us),
        )
        return self._was_done(reply)

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        """Replace the reservation by what was used and free the lease, once."""
        return await self._begin_settling(workspace, lease_id, actual)

    def settle_soon(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> asyncio.Future[bool] | None:
        """As `settle`, begun at once; of one server without a task."""
        return to_future(self._begin_settling(workspace, lease_id, actual))

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        """Where the workspace stands under this plan, and the key; charges nothing."""
        look = Demand(
            workspace=workspace, plan=plan, lease_id="", reserve=Usage(0, 0), key=key
        )
        reply = await self._ask("preview", look)
        return self._frame(plan, key).filled(reply).states(reply[1])

    async def aclose(self) -> None:
        """Close the store."""
        await self._store.aclose()

    def _begin_settling(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> Awaitable[bool]:
        script = self.settle_script
        wire = _packed(
            _head(script, workspace, SETTLE_PARTS),
            lease_id,
            bounded(actual, MAX_LIMIT),
            self._settle_tail,
        )
        return self._store.begin(script, ledger_keys(workspace), wire, self._was_done)

    def _was_done(self, reply: Sequence[int]) -> bool:
        self._abandoned_total += reply[1]
        return bool(reply[0])

    def _frame(self, plan: Plan, key: KeyScope | None) -> Frame:
        """
        By identity: plans and keys' limits live long, and hashing them is 0.35 us.

        A frame keeps what it was made for, so no other object can have its name; two
        keys may share their limits, and are counted apart.
        """
        name = (id(plan), id(key.limits), key.id) if key else (id(plan), 0, "")
        frame = self._frames.get(name)
        if frame is None:
            if len(self._frames) >= MAX_FRAMES:
                self._frames.popitem(last=False)
            frame = self._frames[name] = Frame(plan, key, self._ttl_us)
        return frame

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
            # Not said of nearly every lease: it does take its place.
            *(() if demand.takes_place else ("1",)),
        )
        reply: Sequence[int] = await self._store.run(
            self.admit_script, ledger_keys(demand.workspace), arguments
        )
        self._abandoned_total += reply[-1]
        return reply


# Plans and keys are few and live long; hashing one is cheaper than packing it.
@lru_cache(maxsize=4096)
def _packed_limits(plan: Plan, key: KeyLimits | None) -> bytes:
    """Every limit of both, as admit.lua says."""
    limits = [_described(limit, is_key=False) for limit in plan.limits]
    limits += [_described(limit, is_key=True) for limit in key.limits] if key else []
    # One after the other and in no array, which is cheaper to unpack.
    return b"".join(msgspec.msgpack.encode(part) for each in limits for part in each)


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


# As many as ledger_keys remembers: workspaces that are busy at once.
@lru_cache(maxsize=10_000)
def _head(script: Script, workspace: str, count: int, *first: str) -> bytes:
    """The beginning of a call with `count` parts, up to the lease's id."""
    keys = ledger_keys(workspace)
    return pack_head(count, "EVALSHA", script.sha, len(keys), *keys, *first)


def _packed(head: bytes, lease_id: str, usage: Usage, tail: bytes) -> bytes:
    """
    A call of which only this differs from the last one.

    hiredis packs all of it anew in 5.7 us, this takes 1.3.
    """
    lease = lease_id.encode()
    requests, tokens = b"%d" % usage.requests, b"%d" % usage.tokens
    return b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n%b" % (
        head,
        len(lease),
        lease,
        len(requests),
        requests,
        len(tokens),
        tokens,
        tail,
    )
