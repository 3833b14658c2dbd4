"""Sockets that end without a client lost."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.binding import bind_tcp, bind_unix, take_queued

# How long a client waits for a handshake that must not come.
REFUSED_AFTER_S = 0.2


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    (sock,) = bind_tcp("127.0.0.1", 0, is_shared=True)
    with sock:
        sock.listen(16)
        yield sock


def test_who_has_connected_is_taken_with_what_was_sent(
    listening: socket.socket,
) -> None:
    """Closing the socket would reset them, after the kernel has said yes."""
    with ExitStack() as stack:
        for number in range(5):
            client = stack.enter_context(connect(listening))
            client.sendall(bytes([number]))

        taken = [
            stack.enter_context(each)
            for each in take_queued(listening.fileno(), is_shared=False)
        ]
        listening.close()

        assert list(range(5)) == sorted(each.recv(1)[0] for each in taken)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a gap remains")
def test_nobody_connects_after_the_queue_was_taken(listening: socket.socket) -> None:
    """Whoever was let in now would be reset when the socket closes."""
    take_queued(listening.fileno(), is_shared=False)

    with pytest.raises(TimeoutError):
        connect(listening, within_s=REFUSED_AFTER_S)


def test_whoever_shares_the_socket_goes_on_accepting(listening: socket.socket) -> None:
    """A worker leaves; its supervisor has kept the socket for the next one."""
    take_queued(listening.fileno(), is_shared=True)

    with connect(listening) as client, listening.accept()[0] as accepted:
        client.sendall(b"x")
        assert b"x" == accepted.recv(1)


def test_a_unix_sockets_queue_is_taken_too(tmp_path: Path) -> None:
    """A sidecar's application loses nothing either."""
    path = tmp_path / "gw.sock"
    with (
        bind_unix(path) as listening,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listening.listen(4)
        client.connect(str(path))
        client.sendall(b"x")

        (taken,) = take_queued(listening.fileno(), is_shared=False)

        with taken:
            assert b"x" == taken.recv(1)


def connect(listening: socket.socket, within_s: float = 5.0) -> socket.socket:
    return socket.create_connection(listening.getsockname(), timeout=within_s)
