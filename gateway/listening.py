"""The Date header, which every listener's answers carry."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Protocol


class Dated(Protocol):
    """What hands its default headers to every answer."""

    default_headers: list[tuple[bytes, bytes]]


async def keep_date(state: Dated) -> None:
    """Keep the Date header right, once a second as uvicorn's server does."""
    while True:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)
