"""
Makes redis-py's connection objects, and takes the open transport over from them.

redis-py does what is easy to get wrong: TLS, AUTH, SELECT, the client's name and the
question to the sentinels. The traffic after that is `link.py`'s.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from typing import Any, Final

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from policies.store.errors import Address, Reason, StoreUnavailable
from policies.store.link import Link
from policies.store.resolver import Resolver
from policies.store.url import StoreUrl, StoreUrlProblem, TlsOptions

# Sentinels are asked one after the other, so one that hangs must leave time for the
# next within a connect's own deadline.
_SENTINEL_SHARE: Final = 0.3


class _Resolved(AbstractConnection):
    """
    Looks its host up before redis-py does, which then does not hang over it.

    redis-py's own look-up would keep a thread of the event loop for each attempt.
    """

    host: str
    port: int
    socket_connect_timeout: float | None

    def __init__(self, *, resolver: Resolver, **options: Any) -> None:
        super().__init__(**options)
        self._resolver = resolver

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            await self._resolver.resolve(self.host, int(self.port))
        # The class that is mixed in brings it, untyped.
        await super()._connect()  # type: ignore[safe-super,no-untyped-call]


class _PlainConnection(_Resolved, Connection):
    pass


class _MasterConnection(_Resolved, SentinelManagedConnection):
    pass


class _Trust:
    """What servers must prove, and what the last one did show."""

    def __init__(self, options: TlsOptions) -> None:
        # One context for all connections: loading the trust store takes milliseconds
        # that no event loop should stand still for.
        self.context = _to_context(options)
        # Of the newest handshake; seconds of Unix time.
        self.certificate_expiry_s: int | None = None

    def note(self, shown: ssl.SSLObject) -> None:
        certificate = shown.getpeercert()
        if certificate:
            ends = str(certificate["notAfter"])
            self.certificate_expiry_s = ssl.cert_time_to_seconds(ends)


class _TlsConnection(_Resolved, SSLConnection):
    def __init__(self, *, trust: _Trust, **options: Any) -> None:
        super().__init__(**options)
        self._trust = trust
        self.ssl_context.context = trust.context

    async def _connect(self) -> None:
        await super()._connect()
        if self._writer is not None:
            self._trust.note(self._writer.get_extra_info("ssl_object"))


class _TlsMasterConnection(_TlsConnection, SentinelManagedConnection):
    pass


class Dialer:
    """Knows how to reach the servers of one store URL."""

    def __init__(
        self, url: StoreUrl, *, connect_timeout_s: float, client_name: str
    ) -> None:
        self._url = url
        self.connect_timeout_s = connect_timeout_s
        self._trust = _Trust(url.tls) if url.tls else None
        self._options: dict[str, Any] = {
            "db": url.db,
            "username": url.username,
            "password": url.password,
            "client_name": client_name,
            # Deadlines are kept outside, over the whole of a connect.
            "socket_timeout": None,
            "socket_connect_timeout": connect_timeout_s,
            "protocol": 2,
            "driver_info": None,
        }
        self._resolver = Resolver()
        self._sentinel: Sentinel | None = None
        self._sentinel_pool: SentinelConnectionPool | None = None
        if url.kind == "sentinel":
            self._watch_master()

    def to_connection(self, address: Address | None = None) -> AbstractConnection:
        """A connection, not yet open: to this address, or to what the URL names."""
        if self._sentinel_pool is not None:
            connection: AbstractConnection
            connection = self._sentinel_pool.make_connection()  # type: ignore[no-untyped-call]
            return connection
        if self._url.unix_path is not None:
            return UnixDomainSocketConnection(path=self._url.unix_path, **self._options)
        host, port = address or self._url.hosts[0]
        to = {**self._options, "host": host, "port": port, "resolver": self._resolver}
        if self._trust is None:
            return _PlainConnection(**to)
        return _TlsConnection(trust=self._trust, **to)

    @property
    def certificate_expiry_s(self) -> int | None:
        """When the server's certificate ends, as Unix time; None without TLS."""
        return self._trust.certificate_expiry_s if self._trust else None

    async def aclose(self) -> None:
        """Close what the sentinels were asked with."""
        if self._sentinel is not None:
            with suppress(RedisError, OSError):
                await self._sentinel.aclose()

    def _watch_master(self) -> None:
        asked_for_s = self.connect_timeout_s * _SENTINEL_SHARE
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            self._url.hosts,
            sentinel_kwargs={
                **self._options,
                "db": 0,
                "username": self._url.sentinel_username,
                "password": self._url.sentinel_password,
                "socket_timeout": asked_for_s,
                "socket_connect_timeout": asked_for_s,
                # redis-py's own default is to try several times.
                "retry": Retry(NoBackoff(), 0),
            },
        )
        more: dict[str, Any] = {"resolver": self._resolver}
        master: type[AbstractConnection] = _MasterConnection
        asked: type[AbstractConnection] = _PlainConnection
        if self._trust is not None:
            more["trust"] = self._trust
            master, asked = _TlsMasterConnection, _TlsConnection
        for client in self._sentinel.sentinels:
            client.connection_pool.connection_class = asked
            client.connection_pool.connection_kwargs |= more
        options = {**self._options, **more, "connection_class": master}
        self._sentinel_pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
            self._url.master_name, self._sentinel, **options
        )


async def open_link(
    connection: AbstractConnection, link: Link, timeout_s: float
) -> None:
    """
    Connect and log in, then hand the transport to this link.

    Raises StoreUnavailable, within the time given.
    """
    try:
        await connect(connection, timeout_s)
        _take_over(connection, link)
    except BaseException:
        link.drop("connection", "given up before it was used")
        raise
    finally:
        # After a success redis-py holds nothing more. After its own failures neither,
        # but one of ours may come in between.
        await close_connection(connection)


async def connect(connection: AbstractConnection, timeout_s: float) -> None:
    """Connect and log in, or raise StoreUnavailable within the time given."""
    try:
        async with asyncio.timeout(timeout_s):
            await connection.connect()  # type: ignore[no-untyped-call]
    except TimeoutError:
        raise StoreUnavailable("timeout", "no connection in time") from None
    except (RedisError, OSError) as problem:
        raise to_unavailable(problem) from problem


async def close_connection(connection: AbstractConnection) -> None:
    """Let go of whatever redis-py still holds of this connection."""
    with suppress(RedisError, OSError):
        await connection.disconnect(nowait=True)


def to_unavailable(problem: Exception) -> StoreUnavailable:
    """Why a connection did not come about."""
    reason: Reason = "connection"
    detail = str(problem)
    if isinstance(problem, MasterNotFoundError):
        # redis-py keeps of each sentinel's refusal only the text, between long
        # descriptions of its own objects.
        summary, _, told = detail.partition(" : ")
        kinds = sorted(set(re.findall(r"\b\w+Error\b", told)))
        reason = "auth" if "AuthenticationError" in kinds else "connection"
        detail = ", ".join((summary, *kinds))
    elif isinstance(problem, AuthenticationError):
        reason = "auth"
    elif isinstance(problem, BusyLoadingError):
        reason = "loading"
    elif isinstance(problem, RedisTimeoutError):
        reason = "timeout"
    elif isinstance(problem, ResponseError) or isinstance(
        problem.__context__, ssl.SSLError
    ):
        reason = "refused"
    return StoreUnavailable(reason, detail)


def _take_over(connection: AbstractConnection, link: Link) -> None:
    # Private to redis-py, which offers no way to read replies without a task for each
    # connection and a timer for each reply. The handshake waits for its last reply, so
    # nothing can be left in the stream.
    writer, reader = connection._writer, connection._reader
    if writer is None or reader is None or reader.at_eof():
        raise StoreUnavailable("connection", "closed right after it was opened")
    writer.transport.set_protocol(link)
    link.adopt(writer)
    connection._writer = connection._reader = None


def _to_context(options: TlsOptions) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_certs)
        context.check_hostname = options.is_hostname_checked
        if options.certfile is not None:
            context.load_cert_chain(options.certfile, options.keyfile)
    except OSError as problem:
        raise StoreUrlProblem(f"a TLS file cannot be used: {problem}") from problem
    return context
