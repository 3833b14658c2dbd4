"""Sockets that end without a client lost."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.binding import bind_tcp, bind_unix, refuse_newcomers, take_queued

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

        taken = [stack.enter_context(each) for each in take_queued(listening.fileno())]
        listening.close()

        assert list(range(5)) == sorted(each.recv(1)[0] for each in taken)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a gap remains")
class TestNewcomers:
    """While a socket is about to close."""

    def test_nobody_new_connects(self, listening: socket.socket) -> None:
        """Whoever was let in now would be reset when the socket closes."""
        refuse_newcomers(listening.fileno())

        with pytest.raises(TimeoutError):
            connect(listening, within_s=REFUSED_AFTER_S)

    def test_who_was_connecting_gets_in_with_what_it_sends(
        self, listening: socket.socket
    ) -> None:
        """Its last packet is on the way; to itself it is connected."""
        # The kernel keeps who has sent nothing yet in mid-handshake.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        with connect(listening) as client:
            assert [] == take_queued(listening.fileno())
            refuse_newcomers(listening.fileno())
            client.sendall(b"x")

            (taken,) = take_queued(listening.fileno())

            with taken:
                assert b"x" == taken.recv(1)
                taken.sendall(b"y")
                assert b"y" == client.recv(1)


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

        (taken,) = take_queued(listening.fileno())

        with taken:
            assert b"x" == taken.recv(1)


def connect(listening: socket.socket, within_s: float = 5.0) -> socket.socket:
    return socket.create_connection(listening.getsockname(), timeout=within_s)
