"""
Waiting on sockets with microsecond time-outs, for the load tools and the upstream.

No event loop: at fifty thousand events a second a callback's machinery would cost more
than the event, and the tools share one core.
"""

from __future__ import annotations

import gc
import select
import socket
from typing import Final

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
_MAX_READY: Final = 1024


class Poller:
    """epoll, which by itself waits in whole milliseconds, behind a select of one."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting = [self._epoll.fileno()]

    def watch(self, fd: int, events: int) -> None:
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def ready(self, within_s: float) -> list[tuple[int, int]]:
        """What can be read or written, at the latest after so long."""
        if within_s > 0:
            select.select(self._waiting, (), (), within_s)
        return self._epoll.poll(0, _MAX_READY)


def start_connecting(port: int) -> socket.socket:
    """A loopback connection on its way; it is writable once it is there."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect_ex(("127.0.0.1", port))
    return connection


def stop_collecting() -> None:
    """Nothing here makes cycles, and a collection would be a pause of the tool's."""
    gc.collect()
    gc.freeze()
    gc.disable()
