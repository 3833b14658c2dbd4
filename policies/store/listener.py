"""
A subscription to one channel, on a connection of its own, renewed for ever.

Redis keeps no message for a subscriber that is away. Whoever listens learns when the
subscription stands and when it is lost, and reads anew what it may have missed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from policies.store.bounds import PING_EVERY_S
from policies.store.dialer import close_connection, connect
from policies.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.05
# All replicas of a gateway come back at once after a restart of Redis; longer pauses
# would only make them deaf.
_MAX_PAUSE_S: Final = 2.0


class Listener:
    """Calls back from the event loop; the callbacks must neither block nor raise."""

    def __init__(
        self,
        to_connection: Callable[[], AbstractConnection],
        channel: str,
        *,
        connect_timeout_s: float,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
        on_down: Callable[[], None],
        ping_every_s: float = PING_EVERY_S,
    ) -> None:
        self._to_connection = to_connection
        self._channel = channel
        self._connect_timeout_s = connect_timeout_s
        self._on_message = on_message
        self._on_up = on_up
        self._on_down = on_down
        self._ping_every_s = ping_every_s
        self._is_said = False

    async def run(self) -> None:
        """Listen until cancelled."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                was_up = await self._listen_once()
            except Exception:
                # A callback's mistake must not leave the replica deaf for good.
                logger.exception("listening to %s failed", self._channel)
                was_up = False
            pause_s = _FIRST_PAUSE_S if was_up else min(pause_s * 2, _MAX_PAUSE_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _listen_once(self) -> bool:
        """Listen until the connection ends; whether it was ever subscribed."""
        connection = self._to_connection()
        is_up = False
        try:
            await connect(connection, self._connect_timeout_s)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await connection.send_command("SUBSCRIBE", self._channel)
                await _read(connection)
            is_up = True
            self._on_up()
            while True:
                await self._hear(connection)
        except (StoreUnavailable, RedisError, OSError) as problem:
            self._say(problem, was_up=is_up)
            return is_up
        finally:
            if is_up:
                self._on_down()
            await close_connection(connection)

    def _say(self, problem: Exception, *, was_up: bool) -> None:
        # Once for each loss, not for each try after it.
        if was_up or not self._is_said:
            logger.warning("not listening to %s: %s", self._channel, problem)
        self._is_said = True

    async def _hear(self, connection: AbstractConnection) -> None:
        """Take what comes next; in a silence, make sure that somebody is there."""
        try:
            async with asyncio.timeout(self._ping_every_s):
                reply = await _read(connection)
        except TimeoutError:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await connection.send_command("PING")
                reply = await _read(connection)
        if reply[0] == b"message":
            self._on_message(reply[2])


async def _read(connection: AbstractConnection) -> Any:
    # Cancelled by a time-out, it has taken nothing: the bytes stay in the stream.
    return await connection.read_response(disconnect_on_error=False)
