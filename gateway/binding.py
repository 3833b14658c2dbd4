"""
Sockets that are bound before there is anybody to serve them.

Bound and no more: who serves a socket makes it listen, so that no connection ever waits
at one that nobody has begun to serve.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple


class Bound(NamedTuple):
    """What one process serves: the API's sockets and, if set, the operation port's."""

    api: tuple[socket.socket, ...]
    ops: tuple[socket.socket, ...] = ()

    def close(self) -> None:
        for each in (*self.api, *self.ops):
            each.close()


def bind_tcp(host: str, port: int, *, is_shared: bool) -> tuple[socket.socket, ...]:
    """A socket for each address of the host; all have one port, also if it is 0."""
    found = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    try:
        # In order, each once.
        for family, kind, protocol, _, where in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            _prepare(sock, is_shared=is_shared)
            taken = bound[0].getsockname()[1] if len(bound) > 1 else port
            _bind(sock, (where[0], taken, *where[2:]))
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return tuple(bound)


def check_free(host: str, port: int, variable: str) -> None:
    """OSError that names the variable, if somebody else listens there."""
    try:
        bound = bind_tcp(host, port, is_shared=False)
    except OSError as error:
        # Without a number: what it is about is said, and no other hint fits.
        raise OSError(f"{variable}={port}: {error.strerror or error}") from None
    for sock in bound:
        sock.close()


def _prepare(sock: socket.socket, *, is_shared: bool) -> None:
    sock.setblocking(False)
    # As event loops do: a port whose last connections linger can be taken again.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _bind(sock: socket.socket, where: object) -> None:
    try:
        sock.bind(where)  # type: ignore[arg-type]  # an address of the family's form
    except OSError as error:
        # In the words of the event loop, which binds where one process serves.
        reason = (error.strerror or str(error)).lower()
        text = f"error while attempting to bind on address {where!r}: {reason}"
        raise OSError(error.errno, text) from None


def bind_unix(path: Path) -> socket.socket:
    """A Unix socket; one that was left there is replaced, as event loops do."""
    try:
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
    except FileNotFoundError:
        pass  # nobody has left one there
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(str(path))
    except OSError:
        sock.close()
        raise
    open_to_all(path)
    return sock


def open_to_all(path: Path) -> None:
    """
    Let everybody connect who can reach the socket.

    Who may is decided by the directory it lies in, as for every socket that two
    containers of a pod share under different users.
    """
    path.chmod(0o666)


# Of linux/filter.h, for a listening socket, whose packets begin with the TCP header:
# the byte of its flags; is the SYN among them? then nothing passes; else all of it.
_SO_ATTACH_FILTER: Final = 26
_NO_SYN: Final = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # ldb [13]
        (0x45, 0, 1, 0x02),  # jset #2
        (0x06, 0, 0, 0),  # ret #0
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
    )
)


def refuse_newcomers(listening_fd: int) -> None:
    """
    Let no further handshake begin at a socket that is about to close; on Linux.

    Closing resets whoever the kernel has told that it is connected. Who comes now hears
    nothing, asks again a second later, and finds another replica or a closed port,
    which is safe to retry. Not for a socket that somebody else goes on with.
    """
    with socket.socket(fileno=os.dup(listening_fd)) as sock:
        if sys.platform != "linux" or sock.family == socket.AF_UNIX:
            return
        code = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
        program = struct.pack("HP", len(_NO_SYN) // 8, ctypes.addressof(code))
        # A kernel without it leaves a gap, which is no reason to fail.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def take_queued(listening_fd: int) -> list[socket.socket]:
    """
    The connections that nobody has accepted yet, of a socket that is about to close.

    They have been told that they are connected, and may have asked already.
    """
    taken = []
    with (
        socket.socket(fileno=os.dup(listening_fd)) as sock,
        # Nobody is left, or no descriptor.
        contextlib.suppress(OSError),
    ):
        while True:
            connection, _ = sock.accept()
            connection.setblocking(False)
            taken.append(connection)
    return taken
