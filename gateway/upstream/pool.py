"""
Keep-alive connections to the upstream's origins, bounded in number.

A call takes a place before it takes a connection, in the order in which calls came; so
there are never more connections than places, idle ones included, and nobody waits for a
connection that somebody else was given.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx

from gateway.upstream.connection import Connection
from gateway.upstream.racing import first_connected
from policies.store.resolver import Resolver


class Origin(NamedTuple):
    """Where connections go; those of one origin are as good as one another."""

    host: str
    port: int
    is_tls: bool


class Pool:
    """Connections, busy and idle. Belongs to one event loop."""

    def __init__(
        self,
        *,
        max_connections: int,
        idle_s: float,
        trust: Callable[[], ssl.SSLContext],
        uds: Path | None = None,
    ) -> None:
        """
        An idle connection is closed after `idle_s`; `trust` is what TLS is verified
        by; with `uds` every origin is reached through that Unix socket.
        """
        self._max_connections = max_connections
        self._idle_s = idle_s
        self._trust = trust
        self._uds = uds
        self._free = max_connections
        # Who waits for a place, in the order in which they came.
        self._queue: deque[asyncio.Future[None]] = deque()
        # The newest last: it is the likeliest to be still open.
        self._idle: dict[Origin, deque[Connection]] = {}
        self._idle_count = 0
        self._resolver = Resolver()
        self._sweeper: asyncio.TimerHandle | None = None
        self._is_closed = False
        # As Unix time, of the newest connection of each origin with TLS.
        self.certificate_expiries: dict[Origin, int] = {}

    @property
    def idle(self) -> int:
        return self._idle_count

    @property
    def busy(self) -> int:
        """Places that are taken."""
        return self._max_connections - self._free

    def take_at_once(self, origin: Origin) -> Connection | None:
        """A connection with its place, if both are there to be had."""
        if not self._free or self._is_closed:
            return None
        connection = self.take_idle(origin)
        if connection is not None:
            self._free -= 1
        return connection

    async def take(
        self, origin: Origin, *, pool_s: float | None, connect_s: float | None
    ) -> Connection:
        """
        A connection with its place, new if need be; PoolTimeout or a ConnectError.

        It is given back by `drop`, or by `keep` and `give_place_back`.
        """
        await self.take_place(pool_s)
        try:
            return self.take_idle(origin) or await self.connect(origin, connect_s)
        except BaseException:
            self.give_place_back()
            raise

    def drop(self, connection: Connection) -> None:
        """Cut it, and give its place back."""
        connection.cut()
        self.give_place_back()

    async def take_place(self, timeout_s: float | None) -> None:
        """Be one of those that may have a connection; PoolTimeout if it takes long."""
        if self._is_closed:
            raise httpx.ConnectError("the pool is closed")
        if self._free:
            self._free -= 1
        else:
            await self._queue_for_place(timeout_s)

    async def _queue_for_place(self, timeout_s: float | None) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(timeout_s):
                await turn
        except BaseException as problem:
            if turn.done() and not turn.cancelled():
                self.give_place_back()  # it came, and nobody is here to use it
            elif turn in self._queue:
                self._queue.remove(turn)
            if isinstance(problem, TimeoutError):
                raise httpx.PoolTimeout("no connection became free") from None
            raise

    def give_place_back(self) -> None:
        """The place goes to who has waited longest, and else is free."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def take_idle(self, origin: Origin) -> Connection | None:
        """The connection of this origin that was used last, if there is one."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            self._idle_count -= 1
            if connection.is_open and connection.is_quiet:
                return connection
            connection.abort()
        return None

    def _note_certificate(self, origin: Origin, connection: Connection) -> None:
        tls = connection.tls()
        certificate = tls.getpeercert() if tls else None
        if certificate:
            expires_s = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
            self.certificate_expiries[origin] = expires_s

    async def connect(self, origin: Origin, timeout_s: float | None) -> Connection:
        """A new connection; ConnectTimeout or ConnectError."""
        if self._idle_count > self._free:
            self._close_oldest()
        if self._is_closed:
            raise httpx.ConnectError("the pool is closed")
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._open(origin)
                self._note_certificate(origin, connection)
                return connection
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as problem:
            raise httpx.ConnectError(str(problem)) from problem

    async def _open(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        trust = self._trust() if origin.is_tls else None
        name = origin.host if origin.is_tls else None

        def create() -> Connection:
            return Connection(lambda lost: self._forget(origin, lost))

        if self._uds is not None:
            _, connection = await loop.create_unix_connection(
                create, str(self._uds), ssl=trust, server_hostname=name
            )
            return connection

        async def reach(address: str) -> Connection:
            _, reached = await loop.create_connection(
                create, address, origin.port, ssl=trust, server_hostname=name
            )
            return reached

        addresses = await self._resolver.resolve(origin.host, origin.port)
        return await first_connected(reach, addresses)

    def keep(self, origin: Origin, connection: Connection) -> None:
        """Keep an open connection for the next call."""
        if self._is_closed:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since_s = loop.time()
        self._idle.setdefault(origin, deque()).append(connection)
        self._idle_count += 1
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._idle_s, self._sweep)

    async def aclose(self) -> None:
        """Close what is idle; what is busy is closed by whoever has it."""
        self._is_closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle_count:
            self._close_oldest()
        # A closed transport is torn down in the next turn of the loop.
        await asyncio.sleep(0)

    def _forget(self, origin: Origin, lost: Connection) -> None:
        idle = self._idle.get(origin)
        if idle and lost in idle:
            idle.remove(lost)
            self._idle_count -= 1

    def _close_oldest(self) -> None:
        oldest: Connection | None = None
        of: deque[Connection] = deque()
        for idle in self._idle.values():
            if idle and (oldest is None or idle[0].idle_since_s < oldest.idle_since_s):
                oldest, of = idle[0], idle
        if oldest is not None:
            of.popleft()
            self._idle_count -= 1
            oldest.abort()

    def _sweep(self) -> None:
        """Close what has been idle for too long, and look again when the next is."""
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        next_s: float | None = None
        for origin in list(self._idle):
            idle = self._idle[origin]
            while idle and idle[0].idle_since_s + self._idle_s <= now_s:
                idle.popleft().abort()
                self._idle_count -= 1
            if not idle:
                del self._idle[origin]
            elif next_s is None or idle[0].idle_since_s < next_s:
                next_s = idle[0].idle_since_s
        self._sweeper = None
        if next_s is not None:
            self._sweeper = loop.call_at(next_s + self._idle_s, self._sweep)
