"""
RedisServer: one redis-server in a directory of its own, on loopback and a Unix socket.
"""

from __future__ import annotations

import shutil
import signal
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import redis
from redis.asyncio import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers.clock import FakeClock
from tests.servers.process import (
    PATIENCE_S,
    ReservedPort,
    ServerProcess,
    redis_binary,
    until,
)
from tests.servers.tls import TlsRelay

_LOG_TAIL_LINES: Final = 30


class RedisServer:
    """
    A server that a test owns; it keeps its port and its data until it is closed.

    `users` are ACL rules by name, as in `{"gateway": ">secret ~gw:* +@all"}`. `config`
    adds lines to the configuration, or replaces those written here. `tls` puts a relay
    in front that speaks TLS (see `Certificates.server_context`), for as long as the
    object lives.
    """

    def __init__(
        self,
        *,
        clock: FakeClock | None = None,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        aof: Literal["always", "everysec"] | None = None,
        tls: ssl.SSLContext | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = clock
        self.password = password
        self.directory = Path(tempfile.mkdtemp(prefix="gw-redis-"))
        self.log = self.directory / "redis.log"
        self.unix_path = self.directory / "redis.sock"
        self._port = ReservedPort()
        self._relay = TlsRelay(tls, self.port) if tls else None
        if self._relay:
            self._relay.start()
        self._process: ServerProcess | None = None
        self._clients: list[Redis] = []
        settings = {**self._settings(aof), **(config or {})}
        lines = [f"{name} {value}" for name, value in settings.items()]
        lines += [f"user {name} on {rules}" for name, rules in (users or {}).items()]
        self.config_file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _settings(self, aof: str | None) -> dict[str, str]:
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.unix_path),
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "yes" if aof else "no",
            "appendfsync": aof or "no",
            "enable-debug-command": "local",
            # A stop does not wait for replicas, and a new replica not for others.
            "shutdown-timeout": "0",
            "repl-diskless-sync-delay": "0",
        }
        if self.clock:
            # Its timed waits go through libfaketime beside the server's own looks.
            settings["jemalloc-bg-thread"] = "no"
        if self.password:
            quoted = f'"{self.password}"'
            settings |= {"requirepass": quoted, "masterauth": quoted}
        return settings

    @property
    def config_file(self) -> Path:
        return self.directory / "redis.conf"

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self._credentials}{self.address}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self._credentials}{self.unix_path}?db=0"

    @property
    def tls_url(self) -> str:
        assert self._relay, "started without tls"
        return f"rediss://{self._credentials}localhost:{self._relay.port}/0"

    @property
    def _credentials(self) -> str:
        return f":{quote(self.password, safe='')}@" if self.password else ""

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    @property
    def _running(self) -> ServerProcess:
        assert self._process, "the server was not started"
        return self._process

    def connect(self, **options: Any) -> Redis:
        """A client for assertions, which answers in text. `stop` closes it."""
        settings = {"decode_responses": True, **self._client_options, **options}
        client = Redis(unix_socket_path=str(self.unix_path), **settings)
        self._clients.append(client)
        return client

    def command(self, *command: str | int | bytes) -> Any:
        """Run one command, blocking; for set-up and for tests that do not await."""
        settings = {"decode_responses": True, **self._client_options}
        with redis.Redis(port=self.port, **settings) as client:
            return client.execute_command(*command)

    @property
    def _client_options(self) -> dict[str, Any]:
        return {
            "password": self.password,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": PATIENCE_S,
        }

    async def start(self) -> None:
        """Start, and wait until it answers."""
        assert not self.is_running, "the server is running"
        self._process = ServerProcess(self._command, self._environment, self.log)
        await self._until_ready()

    @property
    def _command(self) -> list[str]:
        return [redis_binary(), str(self.config_file)]

    @property
    def _environment(self) -> dict[str, str]:
        return self.clock.environment if self.clock else {}

    async def _until_ready(self) -> None:
        try:
            await until(lambda: self._answers() or not self.is_running, "an answer")
            assert self.is_running, "the server ended"
        except AssertionError as problem:
            raise AssertionError(f"{problem}\n{self.log_tail()}") from None

    def _answers(self) -> bool:
        try:
            return bool(self.command("PING"))
        except redis.RedisError:
            return False

    def log_tail(self) -> str:
        """What the server said last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    async def stop(self) -> None:
        """Let it end in order, with what it has written; `start` brings it back."""
        await self.hang_up()
        if self.is_running:
            await self._running.terminate()

    async def restart(self) -> None:
        """The same port and data, another process."""
        await self.stop()
        await self.start()

    async def hang_up(self) -> None:
        """Close every client that `connect` gave out."""
        clients, self._clients = self._clients, []
        for client in clients:
            await client.aclose()

    def kill(self) -> None:
        """Die at once, as for want of memory."""
        self._running.kill()

    def freeze(self) -> None:
        """Answer nothing, while the kernel goes on accepting connections and bytes."""
        self._running.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running.signal(signal.SIGCONT)

    async def aclose(self) -> None:
        """End, and forget the data and the port."""
        await self.hang_up()
        if self._relay:
            self._relay.stop()
        if self.is_running:
            self.kill()
        self._port.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
