"""
The store: scripts and commands in, replies or StoreUnavailable out.

It decides no retries beyond those that cannot execute anything twice: a script that was
not known, a slot that is elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from policies.store.bounds import MAX_WAITING, PING_EVERY_S
from policies.store.errors import Address
from policies.store.link import pack
from policies.store.scripts import Script
from policies.store.url import StoreUrl, StoreUrlProblem, parse_store_url

if TYPE_CHECKING:
    from redis.asyncio.connection import AbstractConnection

    from policies.store.dialer import Dialer
    from policies.store.pipe import Pipe

Argument: TypeAlias = str | int | bytes
T = TypeVar("T")


class Nodes(Protocol):
    """The servers behind a store: one, or a cluster's."""

    async def execute(
        self,
        keys: Sequence[str],
        wire: bytes,
        deadline_s: float,
        script: Script | None = None,
    ) -> Any: ...

    async def ping(self, wire: bytes, deadline_s: float) -> None: ...

    def to_connection(self) -> AbstractConnection: ...

    @property
    def flushes_total(self) -> int: ...

    async def aclose(self) -> None: ...


class OneNode:
    """A server alone, or the master that the sentinels name."""

    def __init__(self, dialer: Dialer, pipe: Pipe) -> None:
        self._dialer = dialer
        self._pipe = pipe

    async def execute(
        self,
        keys: Sequence[str],
        wire: bytes,
        deadline_s: float,
        script: Script | None = None,
    ) -> Any:
        del keys
        return await self._pipe.execute(wire, deadline_s, script)

    def begin(
        self,
        wire: bytes,
        deadline_s: float,
        script: Script,
        read: Callable[[Any], Any] | None,
    ) -> asyncio.Future[Any]:
        """As `execute`, sent with this tick's write whether or not it is awaited."""
        return self._pipe.execute(wire, deadline_s, script, read=read)

    async def ping(self, wire: bytes, deadline_s: float) -> None:
        await self._pipe.execute(wire, deadline_s)

    def to_connection(self) -> AbstractConnection:
        return self._dialer.to_connection()

    @property
    def flushes_total(self) -> int:
        return self._pipe.flushes_total

    async def aclose(self) -> None:
        await self._pipe.aclose()


class Store:
    """
    Redis as the ledger sees it. Belongs to one event loop; made by `open_store`.

    Every call ends within the time-out, or at most 10 ms after it.
    """

    def __init__(self, nodes: Nodes, dialer: Dialer, timeout_s: float) -> None:
        self._nodes = nodes
        self._dialer = dialer
        self._timeout_s = timeout_s

    @property
    def flushes_total(self) -> int:
        """Writes to sockets so far: many calls share one."""
        return self._nodes.flushes_total

    @property
    def certificate_expiry_s(self) -> int | None:
        """Of the newest handshake, as Unix time; None without TLS."""
        return self._dialer.certificate_expiry_s

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> Any:
        """Run a script on the server that holds its keys."""
        wire = pack("EVALSHA", script.sha, len(keys), *keys, *args)
        return await self._nodes.execute(keys, wire, self._deadline_s(), script)

    def begin(
        self,
        script: Script,
        keys: Sequence[str],
        wire: bytes,
        read: Callable[[Any], T] | None = None,
    ) -> Awaitable[T]:
        """
        As `run`, of an EVALSHA that is packed already; its reply as `read` has it.

        One server's is a future, begun by the call: it needs no task to run in. A
        cluster's is a coroutine, since its slots may have to be followed.
        """
        nodes = self._nodes
        if isinstance(nodes, OneNode):
            return nodes.begin(wire, self._deadline_s(), script, read)
        return self._follow(script, keys, wire, read)

    async def _follow(
        self,
        script: Script,
        keys: Sequence[str],
        wire: bytes,
        read: Callable[[Any], Any] | None,
    ) -> Any:
        reply = await self._nodes.execute(keys, wire, self._deadline_s(), script)
        return reply if read is None else read(reply)

    async def call(self, *command: Argument, key: str) -> Any:
        """Run a plain command on the server that holds this key."""
        wire = pack(*command)
        return await self._nodes.execute((key,), wire, self._deadline_s())

    async def ping(self) -> None:
        """Connect if need be and hear an answer; of a cluster, one node's is enough."""
        await self._nodes.ping(pack("PING"), self._deadline_s())

    @asynccontextmanager
    async def listen(
        self,
        channel: str,
        *,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        ping_every_s: float = PING_EVERY_S,
    ) -> AsyncIterator[None]:
        """
        Hear a channel for as long as the context lasts, through every lost connection.

        `on_up` follows each successful subscription, `on_down` the loss of each.
        """
        from policies.store.listener import Listener  # noqa: PLC0415 - as below

        listener = Listener(
            self._nodes.to_connection,
            channel,
            connect_timeout_s=self._dialer.connect_timeout_s,
            on_message=on_message,
            on_up=on_up,
            on_down=on_down,
            ping_every_s=ping_every_s,
        )
        task = asyncio.create_task(listener.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def aclose(self) -> None:
        """Close every connection; whoever listens leaves first."""
        try:
            await self._nodes.aclose()
        finally:
            await self._dialer.aclose()

    def _deadline_s(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_s


def open_store(
    url: StoreUrl | str,
    *,
    timeout_s: float = 0.05,
    connect_timeout_s: float = 0.25,
    client_name: str,
    max_waiting: int = MAX_WAITING,
    scripts: Sequence[Script] = (),
) -> Store:
    """
    A store that connects when it is first asked, and then loads `scripts`.

    `timeout_s` is from a call to its reply; `connect_timeout_s` is for a connection,
    which goes on being made when its callers have given up. Raises StoreUrlProblem.

    Beside its keys, its channels and the commands of its scripts, a user needs `+ping
    +evalsha +script|load +client|setname +subscribe +publish`, for a database other
    than 0 `+select`, in a cluster `+cluster|slots +asking`, and among the sentinels
    `+sentinel|masters +client|setname`.
    """
    if isinstance(url, str):
        url = parse_store_url(url)
    if url.kind == "memory":
        raise StoreUrlProblem("memory:// is no store to connect to")
    # redis-py is a fifth of a start, and memory:// needs none of it.
    from policies.store.cluster import Cluster  # noqa: PLC0415
    from policies.store.dialer import Dialer  # noqa: PLC0415
    from policies.store.pipe import Pipe  # noqa: PLC0415

    dialer = Dialer(url, connect_timeout_s=connect_timeout_s, client_name=client_name)

    def to_pipe(address: Address | None = None) -> Pipe:
        return Pipe(
            dialer.to_connection(address),
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            max_waiting=max_waiting,
            scripts=scripts,
            is_of_cluster=address is not None,
        )

    nodes: Nodes
    if url.kind == "cluster":
        nodes = Cluster(dialer, url.hosts, to_pipe, timeout_s)
    else:
        nodes = OneNode(dialer, to_pipe())
    return Store(nodes, dialer, timeout_s)
