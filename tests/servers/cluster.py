"""
RedisCluster: three masters that share the slots, and what moves a slot between them.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from redis.crc import key_slot

from tests.servers.clock import FakeClock, library
from tests.servers.process import ReservedPort, until
from tests.servers.redis_server import RedisServer

SLOTS: Final = 16_384
MASTERS: Final = 3
# A node that starts takes no writes for 2 s, in case another has become the master.
_WRITABLE_DELAY_MS: Final = 2_500
# Longer than any jump of a test's clock.
_NEVER_MS: Final = 100 * 366 * 86_400_000


class ClusterNode(RedisServer):
    """One master of a cluster, with a third of the slots."""

    def __init__(self, number: int, *, node_timeout_ms: int, **options: Any) -> None:
        self.number = number
        self.bus_port = ReservedPort()
        self.node_id = secrets.token_hex(20)
        self._node_timeout_ms = node_timeout_ms
        super().__init__(**options)

    def _settings(self, aof: str | None) -> dict[str, str]:
        return {
            **super()._settings(aof),
            "cluster-enabled": "yes",
            "cluster-port": str(self.bus_port.number),
            "cluster-node-timeout": str(self._node_timeout_ms),
        }

    def introduce(self, nodes: Sequence[ClusterNode]) -> None:
        """
        Write down whom it knows and who has which slots, as after an earlier run.

        By CLUSTER MEET the nodes would learn it from each other in 1 to 4 s.
        """
        lines = [node.described(to=self) for node in nodes]
        lines.append(f"vars currentEpoch {len(nodes)} lastVoteEpoch 0")
        known = self.directory / "nodes.conf"
        known.write_text("\n".join(lines) + "\n", encoding="ascii")

    def described(self, *, to: ClusterNode) -> str:
        flags = "myself,master" if to is self else "master"
        first, last = slots_of(self.number)
        return (
            f"{self.node_id} {self.address}@{self.bus_port.number} {flags}"
            f" - 0 0 {self.number + 1} connected {first}-{last}"
        )

    def is_in_good_state(self) -> bool:
        """Whether every slot is served, as this node sees it."""
        return "cluster_state:ok" in str(self.command("CLUSTER", "INFO"))

    async def aclose(self) -> None:
        await super().aclose()
        self.bus_port.release()


class RedisCluster:
    """
    Nodes that redirect: MOVED after `move_slot`, ASK while a slot is `migrating`.

    Options are those of RedisServer, for every node; no password and no tls. A node
    that is killed is missed by the others after `node_timeout_ms`.
    """

    def __init__(
        self,
        *,
        clock: FakeClock | None = None,
        node_timeout_ms: int = 15_000,
        **options: Any,
    ) -> None:
        self.clock = clock
        self._starting_clock = clock or _private_clock()
        options |= {
            "clock": self._starting_clock,
            # After any jump of the clock every node looks silent.
            "node_timeout_ms": _NEVER_MS if clock else node_timeout_ms,
        }
        self.nodes = tuple(ClusterNode(number, **options) for number in range(MASTERS))
        self._moved: dict[int, ClusterNode] = {}
        for node in self.nodes:
            node.introduce(self.nodes)

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    async def start(self) -> None:
        """Start the nodes and wait until each sees every slot served."""
        for node in self.nodes:
            await node.start()
        clock = self._starting_clock
        if clock:
            clock.advance(_WRITABLE_DELAY_MS)
        await until(self._is_in_good_state, "a cluster in good state")
        if self.clock:
            self.clock.advance(-_WRITABLE_DELAY_MS)
        elif clock:
            clock.run_free()

    def _is_in_good_state(self) -> bool:
        return all(node.is_in_good_state() for node in self.nodes)

    def node_of_slot(self, slot: int) -> ClusterNode:
        return self._moved.get(slot) or self.nodes[slot * MASTERS // SLOTS]

    def node_of(self, key: str) -> ClusterNode:
        return self.node_of_slot(slot_of(key))

    def other_than(self, node: ClusterNode) -> ClusterNode:
        """Another node, as a destination."""
        return self.nodes[(self.nodes.index(node) + 1) % MASTERS]

    def move_slot(self, slot: int, to: ClusterNode) -> None:
        """Give a slot and its keys to another node."""
        with self.migrating(slot, to):
            pass

    @contextmanager
    def migrating(self, slot: int, to: ClusterNode) -> Iterator[None]:
        """
        Between the two nodes inside the block; at its end all of it has arrived.

        Keys that exist stay where they are for the time of the block, and for every
        other key of the slot the old node answers ASK.
        """
        source = self.node_of_slot(slot)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", to.node_id)
        try:
            yield
        finally:
            self._move_keys(slot, source, to)
            others = [node for node in self.nodes if node not in {to, source}]
            for node in (to, source, *others):
                node.command("CLUSTER", "SETSLOT", slot, "NODE", to.node_id)
            self._moved[slot] = to

    def _move_keys(self, slot: int, source: ClusterNode, to: ClusterNode) -> None:
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 1000):
            move = ("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS")
            source.command(*move, *keys)

    def flush(self) -> None:
        """Forget all data."""
        for node in self.nodes:
            node.command("FLUSHALL")

    async def hang_up(self) -> None:
        for node in self.nodes:
            await node.hang_up()

    async def aclose(self) -> None:
        for node in self.nodes:
            await node.aclose()
        if self._starting_clock and self._starting_clock is not self.clock:
            self._starting_clock.close()


def slot_of(key: str) -> int:
    return key_slot(key.encode())


def slots_of(number: int) -> tuple[int, int]:
    """The first and the last slot a node has to begin with."""
    edges = [-(-SLOTS * edge // MASTERS) for edge in (number, number + 1)]
    return edges[0], edges[1] - 1


def _private_clock() -> FakeClock | None:
    # Lets a cluster by the real clock skip the writable delay; without the library it
    # is waited for.
    if library() is None:
        return None
    clock = FakeClock()
    behind = datetime.now(UTC) - timedelta(milliseconds=_WRITABLE_DELAY_MS)
    clock.travel_to(behind.isoformat())
    return clock


@asynccontextmanager
async def redis_cluster(**options: Any) -> AsyncIterator[RedisCluster]:
    """A running cluster of the test's own."""
    cluster = RedisCluster(**options)
    try:
        await cluster.start()
        yield cluster
    finally:
        await cluster.aclose()
