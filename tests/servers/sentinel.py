"""
RedisSentinel: a master, its replica, and three sentinels that put one for the other.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import redis

from tests.servers.process import redis_binary, until
from tests.servers.redis_server import RedisServer

MASTER_NAME: Final = "gateway-test"
QUORUM: Final = 2
_SENTINELS: Final = 3
# A silent master is missed after this. At half, a busy machine fails over for nothing.
_DOWN_AFTER_MS: Final = 500
# Sentinels look around every second or slower, which no test wants to wait for.
_HASTE: Final = {"info-period": 200, "ask-period": 200, "publish-period": 200}


class SentinelServer(RedisServer):
    """One sentinel; the same binary in another mode."""

    def __init__(self, *, password: str | None = None) -> None:
        self.sentinel_id = secrets.token_hex(20)
        super().__init__(password=password)

    def _settings(self, aof: str | None) -> dict[str, str]:
        all_settings = super()._settings(aof)
        shared = ("bind", "port", "unixsocket", "dir", "requirepass")
        return {name: all_settings[name] for name in shared if name in all_settings}

    @property
    def _command(self) -> list[str]:
        return [redis_binary(), str(self.config_file), "--sentinel"]

    def watch(
        self, servers: tuple[RedisServer, RedisServer], peers: list[SentinelServer]
    ) -> None:
        """
        Write down whom it watches and whom it asks, as after an earlier run.

        Left to themselves, sentinels find replicas and each other in 2 s and more.
        """
        master, replica = servers
        settings = {
            "myid": self.sentinel_id,
            "monitor": f"{MASTER_NAME} 127.0.0.1 {master.port} {QUORUM}",
            "down-after-milliseconds": f"{MASTER_NAME} {_DOWN_AFTER_MS}",
            "failover-timeout": f"{MASTER_NAME} 2000",
            "known-replica": f"{MASTER_NAME} 127.0.0.1 {replica.port}",
        }
        lines = [f"sentinel {name} {value}" for name, value in settings.items()]
        if master.password:
            lines.append(f'sentinel auth-pass {MASTER_NAME} "{master.password}"')
        if self.password:
            lines.append(f'sentinel sentinel-pass "{self.password}"')
        lines += [
            f"sentinel known-sentinel {MASTER_NAME} 127.0.0.1 {peer.port}"
            f" {peer.sentinel_id}"
            for peer in peers
            if peer is not self
        ]
        with self.config_file.open("a", encoding="ascii") as config:
            config.write("\n".join(lines) + "\n")

    async def start(self) -> None:
        await super().start()
        for name, period_ms in _HASTE.items():
            self.command("SENTINEL", "DEBUG", name, period_ms)

    def master_port(self) -> int:
        """Where this sentinel sends those who ask for the master."""
        told = self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        return int(told[1])

    def sees_everybody(self) -> bool:
        """Whether a fail-over could succeed, as this sentinel knows."""
        try:
            self.command("SENTINEL", "CKQUORUM", MASTER_NAME)
        except redis.ResponseError:
            return False
        replicas = self.command("SENTINEL", "REPLICAS", MASTER_NAME)
        return any(_is_healthy(_fields(replica)) for replica in replicas)


class RedisSentinel:
    """
    A pair of servers under watch; a killed master is replaced after 1 to 3 s.

    Options are those of RedisServer, for both of the pair; no tls.
    """

    def __init__(self, *, sentinel_password: str | None = None, **options: Any) -> None:
        first = RedisServer(**options)
        config: Mapping[str, str] = options.pop("config", None) or {}
        following = {**config, "replicaof": f"127.0.0.1 {first.port}"}
        self.servers = (first, RedisServer(config=following, **options))
        self.sentinels = [
            SentinelServer(password=sentinel_password) for _ in range(_SENTINELS)
        ]
        for sentinel in self.sentinels:
            sentinel.watch(self.servers, self.sentinels)

    @property
    def url(self) -> str:
        """Without passwords; add them where the test has some."""
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{MASTER_NAME}"

    @property
    def master(self) -> RedisServer:
        """The server that the first sentinel calls the master now."""
        port = self.sentinels[0].master_port()
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        """The other one."""
        master = self.master
        return next(server for server in self.servers if server is not master)

    async def start(self) -> None:
        """Start all, and wait until a fail-over could succeed."""
        for server in self.servers:
            await server.start()
        await until(lambda: _follows(self.servers[1]), "the replica to follow")
        for sentinel in self.sentinels:
            await sentinel.start()
        await self.until_watched()

    async def until_watched(self) -> None:
        """Wait until every sentinel sees both servers and enough of its peers."""
        await until(
            lambda: all(sentinel.sees_everybody() for sentinel in self.sentinels),
            "the sentinels to see everybody",
        )

    async def failover(self) -> None:
        """Exchange master and replica in an orderly way, seen by every sentinel."""
        old = self.master
        self.sentinels[0].command("SENTINEL", "FAILOVER", MASTER_NAME)
        await self.until_replaced(old)

    async def until_replaced(self, old: RedisServer) -> None:
        """Wait until every sentinel has another master, and it takes writes."""
        await until(
            lambda: all(s.master_port() != old.port for s in self.sentinels),
            "another master",
        )
        await until(lambda: "master" == role_of(self.master), "the promotion")

    async def hang_up(self) -> None:
        for server in (*self.servers, *self.sentinels):
            await server.hang_up()

    async def aclose(self) -> None:
        for server in (*self.sentinels, *self.servers):
            await server.aclose()


def role_of(server: RedisServer) -> str:
    """`master` or `slave`, in the server's own word."""
    return str(server.command("ROLE")[0])


def _follows(replica: RedisServer) -> bool:
    return bool(replica.command("ROLE")[3] == "connected")


def _fields(flat: Any) -> dict[str, str]:
    # redis-py leaves this reply as it came when it is asked through execute_command.
    if isinstance(flat, dict):
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _is_healthy(replica: dict[str, str]) -> bool:
    return replica["flags"] == "slave" and replica["master-link-status"] == "ok"


@asynccontextmanager
async def redis_sentinel(**options: Any) -> AsyncIterator[RedisSentinel]:
    """A running pair with its sentinels, of the test's own."""
    sentinel = RedisSentinel(**options)
    try:
        await sentinel.start()
        yield sentinel
    finally:
        await sentinel.aclose()
