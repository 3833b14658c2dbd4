"""
Listening, and stopping without losing a request.

No ASGI server does: they end by raising the signal they caught again, cancel streams
without a word, and know nothing of readiness.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gateway.addresses import Address, ops_address
from gateway.app import Gateway
from gateway.binding import (
    Bound,
    check_free,
    open_to_all,
    refuse_newcomers,
    take_queued,
)
from gateway.http_protocol import EdgeBounds, EdgeProtocol
from gateway.listening import ServerState, keep_date
from gateway.settings import Settings
from gateway.signals import end_by_default
from gateway.wire import Application

if TYPE_CHECKING:
    from gateway.rate_limit.listening import RateLimitListener

logger = logging.getLogger(__name__)

BACKLOG: Final = 2048

# What ends at the deadline still has to tell its client so, and to settle.
FAREWELL_S: Final = 5.0

# From the news that nobody may come any more to the last packet of who was coming: a
# round trip between distant regions.
HANDSHAKE_S: Final = 0.2

# How often a drain looks for requests of which only a part has arrived.
LOOK_EVERY_S: Final = 0.01


class GatewayServer:
    """One process's listeners and connections."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._state = ServerState()
        # Apart: nobody who probes or scrapes keeps a drain waiting.
        self._ops_state = ServerState()
        self._api: list[asyncio.Server] = []
        self._ops: list[asyncio.Server] = []
        self._rate_limit: RateLimitListener | None = None
        # A supervisor keeps its workers' sockets, for those who come after them.
        self._is_worker = False

    @property
    def connections(self) -> Collection[EdgeProtocol]:
        return self._state.connections

    @property
    def is_accepting(self) -> bool:
        return any(listener.is_serving() for listener in self._api)

    async def listen(self, address: Address, bound: Bound | None = None) -> Address:
        """
        Serve the API there; the address with the port that was really taken.

        What is bound already is served as it is.
        """
        port = self._gateway.settings.rate_limit_port
        if port is not None and bound is None:
            # gRPC says it in lines of its own, on stderr.
            check_free(address.host, port, "GATEWAY_RATE_LIMIT_PORT")
        taken = await self._listen_for_clients(address, bound)
        if port is not None:
            # Last: gRPC's server does not bear that what comes after it fails.
            is_shared = bound is not None
            self._rate_limit = self._gateway.rate_limit_listener(is_shared=is_shared)
            await self._rate_limit.start(address.host, port)
        return taken

    async def _listen_for_clients(
        self, address: Address, bound: Bound | None
    ) -> Address:
        edge = self._protocols(self._gateway.edge, self._state)
        ops_edge = self._protocols(self._gateway.ops_edge, self._ops_state)
        if bound is not None:
            self._is_worker = True
            self._api = [await self._listen_at(edge, sock) for sock in bound.api]
            self._ops = [await self._listen_at(ops_edge, sock) for sock in bound.ops]
            return address
        listener = await self._listen(edge, address)
        self._api.append(listener)
        ops = ops_address(self._gateway.settings, address)
        if ops is not None:
            self._ops.append(await self._listen(ops_edge, ops))
        if address.uds is not None:
            return address
        # Port 0 asks for any; who asked wants to know which.
        return Address(address.host, listener.sockets[0].getsockname()[1])

    async def _listen(self, create: Any, address: Address) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if address.uds is not None:
            listener = await loop.create_unix_server(
                create, path=str(address.uds), backlog=BACKLOG
            )
            open_to_all(address.uds)
        else:
            listener = await loop.create_server(
                create, host=address.host, port=address.port, backlog=BACKLOG
            )
        return listener

    async def _listen_at(self, create: Any, bound: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        if bound.family != socket.AF_UNIX:
            return await loop.create_server(create, sock=bound, backlog=BACKLOG)
        if sys.version_info >= (3, 13):
            # Its file is not ours alone, so whoever bound it removes it.
            return await loop.create_unix_server(
                create, sock=bound, backlog=BACKLOG, cleanup_socket=False
            )
        else:
            return await loop.create_unix_server(create, sock=bound, backlog=BACKLOG)

    def _protocols(self, app: Application, state: ServerState) -> Any:
        settings = self._gateway.settings
        bounds = EdgeBounds(
            app=app,
            max_header_bytes=settings.http_max_header_bytes,
            header_timeout_s=settings.http_header_timeout_s,
            write_timeout_s=settings.http_write_timeout_s,
            keep_alive_s=settings.http_keepalive_timeout_s,
        )
        return partial(EdgeProtocol, bounds, state)

    async def keep_date(self) -> None:
        """Keep the Date header right until cancelled."""
        await keep_date(self._state, self._ops_state)

    async def drain(self) -> None:
        """Take nothing new, let what runs finish, end the rest when the time is up."""
        await self._give_notice()
        await self._stop_accepting()
        if not await self._finished_within(self._gateway.settings.drain_timeout_s):
            self._gateway.attendance.end_all()
            if not await self._finished_within(FAREWELL_S):
                logger.warning("requests were still running at the end")
        # Until here, so that probes and scrapers can see the drain.
        await accept_no_more(self._ops)
        for listener in self._ops:
            listener.close()
        self._hang_up()

    async def _give_notice(self) -> None:
        """
        Say that this replica goes, and serve on while the news spreads.

        Readiness is off and every answer ends its connection, so whoever chooses a
        replica chooses another; whoever has not heard yet is served like before.
        """
        notice_s = self._gateway.settings.drain_notice_s
        self._gateway.is_draining = True
        self._state.is_leaving = True
        for connection in self._state.connections:
            connection.make_newest_last()
        facts = {"in_flight": len(self._state.tasks), "notice_s": notice_s}
        logger.info("draining", extra={"facts": facts})
        await asyncio.sleep(notice_s)

    async def _stop_accepting(self) -> None:
        if self._rate_limit is not None:
            await self._rate_limit.stop()
        sockets = [sock for listener in self._api for sock in listener.sockets]
        if not self._is_worker:
            for sock in sockets:
                refuse_newcomers(sock.fileno())
            # Handshakes under way end meanwhile, and are accepted as ever.
            await asyncio.sleep(HANDSHAKE_S)
        await accept_no_more(self._api)
        queued = [each for sock in sockets for each in take_queued(sock.fileno())]
        for listener in self._api:
            listener.close()
        create = self._protocols(self._gateway.edge, self._state)
        loop = asyncio.get_running_loop()
        for connection in queued:
            # Some have left meanwhile.
            with suppress(OSError):
                await loop.connect_accepted_socket(create, connection)
        for protocol in list(self._state.connections):
            protocol.close_if_idle()
        facts = {"in_flight": len(self._state.tasks), "queued": len(queued)}
        logger.info("accepts no more", extra={"facts": facts})

    async def _finished_within(self, timeout_s: float) -> bool:
        """
        Whether every request ended in that time; also those that are still arriving.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        while True:
            # Asked again and again: a pipelined request starts when the one before it
            # ends, and one that arrives when its head is complete.
            left_s = ends_at - loop.time()
            if not self._state.tasks and not self._is_being_asked():
                return True
            if left_s <= 0:
                return False
            ended = await self._wait_for_some(left_s)
            # One that was cancelled before its first step does not leave by itself.
            self._state.tasks -= ended

    async def _wait_for_some(self, within_s: float) -> set[asyncio.Task[None]]:
        if not self._state.tasks:
            await asyncio.sleep(min(LOOK_EVERY_S, within_s))
            return set()
        ended, _ = await asyncio.wait(list(self._state.tasks), timeout=within_s)
        return ended

    def _is_being_asked(self) -> bool:
        return any(each.is_being_asked() for each in self._state.connections)

    def _hang_up(self) -> None:
        for state in (self._state, self._ops_state):
            # Tasks first: they settle what they hold while their connection exists.
            for task in state.tasks:
                task.cancel()
            for connection in list(state.connections):
                connection.transport.close()


async def accept_no_more(listeners: list[asyncio.Server]) -> None:
    """
    Leave newcomers in the kernel's queue, and let the accepted become connections.

    In asyncio's own loop that takes two turns, and a listener that is closed meanwhile
    loses them; uvloop's has no such turns, and knows of no reader here.
    """
    for listener in listeners:
        for sock in listener.sockets:
            asyncio.get_running_loop().remove_reader(sock.fileno())
    for _ in range(3):
        await asyncio.sleep(0)


@asynccontextmanager
async def running_gateway(
    gateway: Gateway, address: Address, bound: Bound | None = None
) -> AsyncIterator[tuple[GatewayServer, Address]]:
    """A listening gateway in this event loop; drained on the way out."""
    server = GatewayServer(gateway)
    async with gateway.running():
        taken = await server.listen(address, bound)
        date = asyncio.create_task(server.keep_date())
        try:
            yield server, taken
        finally:
            await server.drain()
            date.cancel()
            if address.uds is not None and bound is None:
                address.uds.unlink(missing_ok=True)


STOPPING: Final = (signal.SIGTERM, signal.SIGINT)


def signalled(
    numbers: tuple[signal.Signals, ...] = STOPPING,
) -> asyncio.Future[signal.Signals]:
    """
    Done when SIGTERM or SIGINT comes; a second one ends the process at once.

    Asked for before anything else is started, so that no early signal is lost.
    """
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        if not told.done():
            told.set_result(number)
            for each in numbers:
                loop.remove_signal_handler(each)
                end_by_default(each)

    for number in numbers:
        loop.add_signal_handler(number, tell, number)
    return told


async def serve(settings: Settings, address: Address) -> None:
    """Serve until told to stop."""
    told = signalled()
    gateway = Gateway(settings, environment=os.environ)
    async with running_gateway(gateway, address) as (_, taken):
        logger.info("serving", extra={"facts": facts_of(gateway, taken)})
        warn_of_keys(gateway)
        await gateway.finish_making()
        calm_collector()
        number = await told
        logger.info("stopping", extra={"facts": {"signal": number.name}})


def facts_of(gateway: Gateway, address: Address) -> dict[str, Any]:
    """What the log says of a start."""
    return {
        "address": str(address),
        "upstream": gateway.settings.upstream_url,
        "plans": list(gateway.files.book.names),
        "keys": len(gateway.files.keyring),
        # Its kind only: its URL may hold a password.
        "store": gateway.shared.status()["kind"],
        "sidecar_of": gateway.settings.sidecar_workspace,
    }


def calm_collector() -> None:
    """
    Look through what was made at the start no more, and seldom through the rest.

    Every thousand requests a full collection stood still for 50 ms: the 99th percentile
    of 32 connections was 60 ms and is 25. What a request makes dies by its counts, so
    little but a mistake leaves cycles; an open stream holds some 100 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)


def warn_of_keys(gateway: Gateway) -> None:
    """Say at the start what would otherwise look like everybody's mistake."""
    settings = gateway.settings
    if settings.sidecar_workspace is not None:
        return
    has_keys = len(gateway.files.keyring) > 0 or gateway.shared.keys is not None
    if not has_keys and settings.default_plan is None:
        logger.warning(
            "nobody can call: set GATEWAY_KEYS_FILE, or GATEWAY_STORE_URL and make keys"
            " in it, or GATEWAY_DEFAULT_PLAN to let callers bring their own"
        )
    elif has_keys and settings.upstream_api_key is None:
        logger.warning(
            "GATEWAY_UPSTREAM_API_KEY is unset: the gateway's own keys are sent to"
            " LLMTune themselves"
        )
