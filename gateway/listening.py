"""What listeners share: the Date header, and uvicorn's settings for the simulator."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Any, Protocol, cast

from uvicorn.config import Config


def protocol_config(app: object, *, keep_alive_s: int) -> Config:
    """uvicorn's settings for one application, without its logs and its lifespan."""
    config = Config(
        cast(Any, app),  # every library types ASGI's callable in its own words
        lifespan="off",
        ws="none",
        interface="asgi3",
        log_config=None,
        # Whoever connects is the peer; forwarded addresses decide nothing here.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=keep_alive_s,
    )
    config.load()
    return config


class Dated(Protocol):
    """What hands its default headers to every answer."""

    default_headers: list[tuple[bytes, bytes]]


async def keep_date(state: Dated) -> None:
    """Keep the Date header right, once a second as uvicorn's server does."""
    while True:
        state.default_headers = [(b"date", formatdate(usegmt=True).encode())]
        await asyncio.sleep(1)
