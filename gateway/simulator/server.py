"""
Runs the simulator on a socket, in its own process or inside another's event loop.

Uvicorn's protocol without uvicorn's server: that one installs signal handlers, polls
and waits for streams to end, none of which suits a guest in another event loop.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.listening import keep_date
from gateway.simulator.app import Simulator, create_simulator
from gateway.simulator.exchange import ABORT
from gateway.simulator.settings import SimulatorSettings
from gateway.simulator.stats import Stats, StatsBoard

# Longer than the pools of common HTTP clients keep an idle connection, so that the
# client is the one to close it and no request meets a closing connection.
KEEP_ALIVE_S: Final = 75

# struct linger {on, 0 s}: closing discards what was not sent and resets.
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class SimulatorProtocol(HttpToolsProtocol):
    """Uvicorn's, plus: handlers can drop the connection, and leavers are counted."""

    def __init__(self, *args: Any, board: StatsBoard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Set here and not in Config, which would silence the whole process.
        self.access_log = False
        self._board = board
        self._dropped = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        # uvicorn's types allow only dictionaries as extensions; ASGI does not mind.
        self.scope["extensions"] = cast(Any, {ABORT: self.abort})

    def abort(self, *, reset: bool) -> None:
        self._dropped = True
        if not reset:
            self.transport.close()
            return
        fd = self.transport.get_extra_info("socket").fileno()
        if fd >= 0:
            # uvloop's socket object cannot set options, a duplicate of it can.
            with socket.fromfd(fd, socket.AF_INET, socket.SOCK_STREAM) as same:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

    def hang_up(self) -> None:
        """Close at once, without counting a client that left."""
        self._dropped = True
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        is_unfinished = self.cycle is not None and not self.cycle.response_complete
        if is_unfinished and not self._dropped:
            self._board.disconnected()
        super().connection_lost(exc)


class RunningSimulator:
    """A simulator that listens; `url` is its root, `base_url` the one with `/v1`."""

    def __init__(self, simulator: Simulator, host: str, port: int) -> None:
        self.simulator = simulator
        self.host = host
        self.port = port

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def stats(self) -> Stats:
        return self.simulator.board.counts

    async def wait_until(
        self, holds: Callable[[Stats], bool], timeout_s: float = 5.0
    ) -> Stats:
        """Return once `holds(stats)`; a TimeoutError names the counts it saw last."""
        return await self.simulator.board.wait_until(holds, timeout_s)


@asynccontextmanager
async def running_simulator(
    settings: SimulatorSettings | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RunningSimulator]:
    """
    A simulator in the running event loop, for as long as the context lasts.

    On leaving it stops at once: open answers are cut off, not waited for.
    """
    simulator = create_simulator(settings)
    state = ServerState()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        partial(
            SimulatorProtocol,
            config=protocol_config(simulator, keep_alive_s=KEEP_ALIVE_S),
            server_state=state,
            app_state={},
            board=simulator.board,
        ),
        host=host,
        port=port,
        backlog=2048,
    )
    date = asyncio.create_task(keep_date(state))
    try:
        yield RunningSimulator(simulator, host, listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        date.cancel()
        await asyncio.wait([date])
        await hang_up(state)
        await simulator.aclose()


async def hang_up(state: ServerState) -> None:
    for connection in list(state.connections):
        cast(SimulatorProtocol, connection).hang_up()
    # Each request notices that its client is gone; cancelling is for those that wait
    # for nothing of the connection's.
    tasks = list(state.tasks)
    if tasks:
        _, stuck = await asyncio.wait(tasks, timeout=1)
        for task in stuck:
            task.cancel()


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
