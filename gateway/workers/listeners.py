"""
The sockets of every worker slot, kept by the supervisor.

Each slot has sockets of its own on the one port, among which the kernel shares out
connections. A worker that dies leaves them, with what is queued there, to its
successor. A Unix socket has no such groups: all slots share the one.
"""

from __future__ import annotations

import contextlib
import socket

from gateway.addresses import Address
from gateway.binding import Bound, bind_tcp, bind_unix


class Listeners:
    """Bound for all slots; nobody listens yet."""

    def __init__(self, address: Address, ops: Address | None, *, slots: int) -> None:
        """OSError if the address is taken."""
        self._uds = address.uds
        self._shared: tuple[socket.socket, ...] = ()
        if address.uds is not None:
            self._shared = (bind_unix(address.uds),)
        port = 0 if address.uds is not None else free_port(address)
        self._ops = ops and Address(ops.host, free_port(ops))
        # The port that was really taken.
        self.address = Address(address.host, port, address.uds)
        self._slots = [self._bind() for _ in range(slots)]

    def _bind(self) -> Bound:
        api = self._shared
        if not api:
            api = bind_tcp(self.address.host, self.address.port, is_shared=True)
        if self._ops is None:
            return Bound(api)
        return Bound(api, bind_tcp(self._ops.host, self._ops.port, is_shared=True))

    def of(self, slot: int) -> Bound:
        return self._slots[slot]

    def keep_only(self, slot: int) -> Bound:
        """In a worker: its own, the others' closed, which would go on accepting."""
        mine = self._slots[slot]
        for other in self._slots:
            if other is not mine:
                for sock in {*other.api, *other.ops} - set(mine.api):
                    sock.close()
        return mine

    def renew(self, slot: int) -> None:
        """
        Have connections go to the other slots until somebody listens in this one.

        What is queued in it is lost: there is nobody who could have accepted it.
        """
        old = self._slots[slot]
        # Bound before the old ones close, so that the port stays ours.
        self._slots[slot] = self._bind()
        for sock in {*old.api, *old.ops} - set(self._shared):
            sock.close()

    def close(self) -> None:
        for bound in self._slots:
            bound.close()

    def forget(self) -> None:
        """Remove what is left in the file system."""
        if self._uds is not None:
            with contextlib.suppress(OSError):
                self._uds.unlink()


def free_port(address: Address) -> int:
    """
    The port, or a free one for 0, if nobody else listens there.

    Slots share theirs with whoever asks in the same way: a gateway that was started
    twice would take half of the other's connections.
    """
    taken = bind_tcp(address.host, address.port, is_shared=False)
    number: int = taken[0].getsockname()[1]
    for sock in taken:
        sock.close()
    return number
