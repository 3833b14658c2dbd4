"""
Looks up host names, one look-up of a name at a time, in threads of its own.

asyncio looks names up in the event loop's few threads and cannot stop a look-up whose
caller has given up. While a resolver hangs, reconnects would fill them, and whoever
else needs a thread would wait without an end.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import NamedTuple


class Name(NamedTuple):
    """What is looked up."""

    host: str
    port: int


def addresses_of(name: Name) -> list[str]:
    """What the system says, in its order; OSError if there is no such host."""
    try:
        found = socket.getaddrinfo(name.host, name.port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("this is no host name") from None
    return [str(address[0]) for *_, address in found]


class Resolver:
    """Shares each look-up among all who ask for the name while it runs."""

    def __init__(self, look_up: Callable[[Name], list[str]] = addresses_of) -> None:
        """`look_up` blocks, and is called in a thread."""
        self._look_up_now = look_up
        self._pending: dict[Name, asyncio.Future[list[str]]] = {}

    async def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of a host, in the system's order; OSError if it has none."""
        if is_address(host):
            return [host]
        name = Name(host, port)
        pending = self._pending.get(name)
        if pending is None:
            pending = self._pending[name] = self._look_up(name)
        # Shielded: whoever gives up leaves it to those who come next.
        return await asyncio.shield(pending)

    def _look_up(self, name: Name) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def tell(outcome: list[str] | OSError) -> None:
            self._pending.pop(name, None)
            if found.cancelled():
                return
            if isinstance(outcome, OSError):
                found.set_exception(outcome)
                # Everybody may have given up; that is no error nobody looked at.
                found.exception()
            else:
                found.set_result(outcome)

        def run() -> None:
            outcome: list[str] | OSError
            try:
                outcome = self._look_up_now(name)
            except OSError as problem:
                outcome = problem
            except Exception as problem:  # noqa: BLE001 - or nobody would ever be told
                outcome = OSError(str(problem))
            # The loop may be gone by now, and with it whoever asked.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, outcome)

        # A daemon, because a look-up that hangs must not keep the process from ending.
        threading.Thread(target=run, name=f"resolve {name.host}", daemon=True).start()
        return found


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
