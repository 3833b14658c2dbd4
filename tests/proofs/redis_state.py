"""
What the ledger has in Redis, read by raw commands and past all of the gateway's code.

The form is that of policies/lua/usage.lua and leases.lua.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Self

import msgspec

from policies.key_names import ledger_keys
from tests.proofs.check import Check
from tests.servers.cluster import RedisCluster
from tests.servers.redis_server import RedisServer

SETTLED: Final = 2**52
_decode: Final = msgspec.msgpack.decode


class Charge(msgspec.Struct, frozen=True):
    """What a lease was charged."""

    requests: int
    reserved: int
    progress: int
    charged: int


class Footprint(msgspec.Struct, frozen=True):
    """All that is kept of one workspace."""

    # Of held leases when they end; above 2^52 settled ones, below 0 abandoned ones.
    scores: dict[str, int]
    charges: dict[str, Charge]
    # What its scopes used, by dimension.
    usage: dict[str, dict[str, Any]]

    @property
    def held(self) -> dict[str, int]:
        """When each held lease ends, in epoch microseconds."""
        return {k: score for k, score in self.scores.items() if 0 < score <= SETTLED}

    @property
    def settled(self) -> int:
        return sum(score > SETTLED for score in self.scores.values())

    @property
    def abandoned(self) -> set[str]:
        return {lease_id for lease_id, score in self.scores.items() if score < 0}

    @property
    def places(self) -> list[list[int]]:
        """Leases, those beyond a shadow's, and what they reserve; of each scope."""
        return [scope["places"] for scope in self.usage.values()]

    @property
    def is_at_rest(self) -> bool:
        """Whether all that ran has been given back, to the last field."""
        return (
            not self.charges
            and self.settled == len(self.scores)
            and bool(self.places)
            and not any(map(any, self.places))
        )


class RedisState:
    """One server or the masters of a cluster."""

    def __init__(
        self, nodes: Sequence[RedisServer], node_of: Callable[[str], RedisServer]
    ) -> None:
        self._nodes = nodes
        self._node_of = node_of

    @classmethod
    def of(cls, store: RedisServer | RedisCluster) -> Self:
        if isinstance(store, RedisCluster):
            return cls(store.nodes, store.node_of)
        return cls([store], lambda _: store)

    async def footprint(self, workspace: str) -> Footprint:
        """What is kept of a workspace now."""
        usage_key, leases_key, charges_key = ledger_keys(workspace)
        redis = _raw(self._node_of(leases_key))
        flat = await redis.execute_command("ZRANGE", leases_key, 0, -1, "WITHSCORES")
        charges = await redis.execute_command("HGETALL", charges_key)
        usage = await redis.execute_command("HGETALL", usage_key)
        return Footprint(
            {k.decode(): int(v) for k, v in zip(flat[::2], flat[1::2], strict=True)},
            {k.decode(): Charge(*_decode(v)[:4]) for k, v in charges.items()},
            {k.decode(): _decode(v) for k, v in usage.items()},
        )

    async def ttls(self) -> dict[str, int]:
        """The milliseconds every key of ours still lives; -1 is for ever."""
        return {
            key.decode(): await redis.execute_command("PTTL", key)
            for node in self._nodes
            for redis in [_raw(node)]
            async for key in _keys(redis)
        }


def _raw(node: RedisServer) -> Any:
    # redis-py has no types for a command in its raw form.
    return node.connect(decode_responses=False)


async def _keys(redis: Any) -> AsyncIterator[bytes]:
    cursor = 0
    while True:
        reply = await redis.execute_command(
            "SCAN", cursor, "MATCH", "gw:*", "COUNT", 1000
        )
        cursor = int(reply[0])
        for key in reply[1]:
            yield key
        if cursor == 0:
            return


async def ttl_check(state: RedisState) -> Check:
    """Every key ends by itself."""
    ttls = await state.ttls()
    # A key may have ended between its name and the question: -2.
    lasting = sorted(key for key, ttl_ms in ttls.items() if ttl_ms == -1)
    figure = f"{', '.join(lasting) or '0'} of {len(ttls)}"
    return Check("keys without a ttl", figure, bool(ttls) and not lasting)


async def rest_check(state: RedisState, workspaces: Sequence[str]) -> Check:
    """No workspace holds anything, and what has ended is remembered as settled."""
    prints = {name: await state.footprint(name) for name in workspaces}
    restless = [
        f"{name} holds {len(found.held)}, charges {len(found.charges)},"
        f" places {found.places}"
        for name, found in prints.items()
        if not found.is_at_rest
    ]
    settled = sum(found.settled for found in prints.values())
    figure = "; ".join(restless) or f"0 held, {settled:,} remembered as settled"
    return Check("leases in Redis", figure, not restless and settled > 0)
