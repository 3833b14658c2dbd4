"""What the listeners of one process share, with the Date header of every answer."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.errors import Header
    from gateway.http_protocol import EdgeProtocol


class Dated(Protocol):
    """What hands its default headers to every answer."""

    default_headers: list[tuple[bytes, bytes]]


def address_of(transport: asyncio.BaseTransport, name: str) -> tuple[str, int] | None:
    """The host and port of an end of a connection; None for a Unix socket's."""
    info = transport.get_extra_info(name)
    return (info[0], info[1]) if isinstance(info, tuple) else None


async def keep_date(*states: Dated) -> None:
    """Keep the Date header right, once a second as uvicorn's server does."""
    while True:
        for state in states:
            state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)


class ServerState:
    """What the connections of the API, or of the operation port, share."""

    def __init__(self) -> None:
        self.connections: set[EdgeProtocol] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        # What every answer carries.
        self.default_headers: list[Header] = []
        # Every answer is its connection's last.
        self.is_leaving = False
