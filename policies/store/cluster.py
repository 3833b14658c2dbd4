"""
A Redis cluster: finds the server of a slot and follows the slots as they move.

The map of slots is read by one background task at a time. Callers wait for it only
while there is none, and never longer than for anything else.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection

from policies.store.dialer import Dialer
from policies.store.errors import Address, Redirected, StoreUnavailable
from policies.store.link import pack
from policies.store.pipe import Pipe
from policies.store.scripts import Script
from policies.store.slots import SlotMap, slot_of

# A map that is read more often than this tells nothing new: a fail-over takes seconds,
# and single slots are learnt from their redirections.
_REFRESH_EVERY_S: Final = 0.25
# Between tries while slots move or nobody serves them.
_PAUSE_S: Final = 0.005
# More redirections than that are a loop between servers that disagree.
_MAX_REDIRECTIONS: Final = 5

_SLOTS: Final = pack("CLUSTER", "SLOTS")


class Cluster:
    """All masters of a cluster, each with its own pipe."""

    def __init__(
        self,
        dialer: Dialer,
        seeds: Sequence[Address],
        to_pipe: Callable[[Address], Pipe],
        timeout_s: float,
    ) -> None:
        self._dialer = dialer
        self._seeds = tuple(seeds)
        self._to_pipe = to_pipe
        self._timeout_s = timeout_s
        self._pipes: dict[Address, Pipe] = {}
        self._slots: SlotMap | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_s = float("-inf")
        # Why there is no map, while there is none.
        self._trouble = StoreUnavailable("cluster", "no server told its slots yet")
        self._retired_flushes = 0
        self._is_closed = False

    @property
    def flushes_total(self) -> int:
        live = sum(pipe.flushes_total for pipe in self._pipes.values())
        return self._retired_flushes + live

    async def execute(
        self,
        keys: Sequence[str],
        wire: bytes,
        deadline_s: float,
        script: Script | None = None,
    ) -> Any:
        """Send to whoever holds the keys, and after them where they move."""
        slot = slot_of(keys)
        address = (await self._map(deadline_s)).owner(slot)
        if address is None:
            self._refresh_soon()
            raise StoreUnavailable("cluster", f"nobody serves slot {slot}")
        is_asking = False
        for _ in range(_MAX_REDIRECTIONS):
            try:
                return await self._reach(address, wire, deadline_s, script, is_asking)
            except Redirected as redirected:
                # A server that has no name for another means its own host.
                host = redirected.address.host or address.host
                address = Address(host, redirected.address.port)
                is_asking = redirected.is_ask
                if not is_asking:
                    self._learn(slot, address)
        raise StoreUnavailable("cluster", f"slot {slot} is sent in circles")

    async def ping(self, wire: bytes, deadline_s: float) -> None:
        """
        Hear an answer from one master.

        One that is down fails the calls for its own keys; the others are to be served.
        """
        addresses = (await self._map(deadline_s)).addresses
        pings = [self._pipe(to).execute(wire, deadline_s) for to in addresses]
        outcomes = await asyncio.gather(*pings, return_exceptions=True)
        problems = [one for one in outcomes if isinstance(one, BaseException)]
        if len(problems) == len(outcomes):
            raise problems[0] if problems else StoreUnavailable("cluster", "no masters")

    def to_connection(self) -> AbstractConnection:
        """A connection to any server, since each hears what is published on any."""
        return self._dialer.to_connection(random.choice(self._candidates()))  # noqa: S311 - spreads load

    async def aclose(self) -> None:
        self._is_closed = True
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(pipe.aclose() for pipe in self._pipes.values()))

    async def _reach(
        self,
        address: Address,
        wire: bytes,
        deadline_s: float,
        script: Script | None,
        is_asking: bool,
    ) -> Any:
        """Execute at this address, again while its slots are between two servers."""
        loop = asyncio.get_running_loop()
        while True:
            pipe = self._pipe(address)
            try:
                return await pipe.execute(wire, deadline_s, script, is_asking=is_asking)
            except StoreUnavailable as problem:
                if problem.reason in ("connection", "timeout", "replica", "cluster"):
                    self._refresh_soon()
                if problem.reason != "cluster" or deadline_s - loop.time() < _PAUSE_S:
                    raise
            await asyncio.sleep(_PAUSE_S)

    def _pipe(self, address: Address) -> Pipe:
        if self._is_closed:
            raise StoreUnavailable("closed")
        pipe = self._pipes.get(address)
        if pipe is None:
            pipe = self._pipes[address] = self._to_pipe(address)
        return pipe

    def _learn(self, slot: int, owner: Address) -> None:
        if self._slots is not None:
            self._slots.learn(slot, owner)
        self._refresh_soon()

    async def _map(self, deadline_s: float) -> SlotMap:
        if self._slots is None:
            await self._wait_for_map(deadline_s)
        if self._slots is None:
            raise StoreUnavailable(self._trouble.reason, self._trouble.detail)
        return self._slots

    async def _wait_for_map(self, deadline_s: float) -> None:
        # Waited for, not awaited: a caller that leaves does not take the others' map.
        refreshing = self._refresh()
        left_s = deadline_s - asyncio.get_running_loop().time()
        _, late = await asyncio.wait([refreshing], timeout=left_s)
        if late:
            raise StoreUnavailable("timeout", "no server told its slots in time")

    def _refresh_soon(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._refreshed_s >= _REFRESH_EVERY_S and not self._is_closed:
            self._refreshing = self._refresh()

    def _refresh(self) -> asyncio.Task[None]:
        if self._is_closed:
            raise StoreUnavailable("closed")
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._read_map())
        return self._refreshing

    async def _read_map(self) -> None:
        loop = asyncio.get_running_loop()
        self._refreshed_s = loop.time()
        for address in self._candidates():
            try:
                reply = await self._pipe(address).execute(
                    _SLOTS, loop.time() + self._timeout_s
                )
            except StoreUnavailable as problem:
                self._trouble = problem
                if not problem.is_outage:
                    # No cluster, and none will become of it.
                    self._trouble = StoreUnavailable("refused", problem.detail)
            else:
                if reply:
                    self._slots = SlotMap.from_reply(reply, address)
                    self._retire(self._slots.addresses)
                    return

    def _candidates(self) -> list[Address]:
        """Whom to ask for the map: those who are connected first."""
        known = self._slots.addresses if self._slots else frozenset()
        addresses = list({*self._seeds, *known, *self._pipes})
        random.shuffle(addresses)
        addresses.sort(key=self._is_connected, reverse=True)
        return addresses

    def _is_connected(self, address: Address) -> bool:
        pipe = self._pipes.get(address)
        return pipe is not None and pipe.is_connected

    def _retire(self, current: frozenset[Address]) -> None:
        # Seeds by another name, and servers that lost all their slots.
        for address in self._pipes.keys() - current:
            if not self._pipes[address].waiting:
                pipe = self._pipes.pop(address)
                self._retired_flushes += pipe.flushes_total
                pipe.close()
