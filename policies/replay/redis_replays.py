"""Replays of all replicas, in Redis: one script a step, by the server's clock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from policies.key_names import replay_keys
from policies.replay.packing import pack_beside, unpack_answer
from policies.replay.port import (
    Claim,
    Conflict,
    First,
    InFlight,
    KeptAnswer,
    ReplayKey,
    ReplayUnavailable,
    Stored,
)
from policies.store.errors import StoreUnavailable
from policies.store.scripts import Script, load_script
from policies.store.store import Store

logger = logging.getLogger(__name__)

CLAIM: Final[Script] = load_script("replay_claim")
KEEP: Final[Script] = load_script("replay_end", name="replay_keep")
# The same where memory is full: what is given back gives some, and a claim goes on.
END: Final[Script] = load_script("replay_end", is_allowed_when_full=True)
REPLAY_SCRIPTS: Final = (CLAIM, KEEP, END)

_FIRST, _STORED, _IN_FLIGHT = 0, 1, 2


class RedisReplays:
    """Implements `ReplayStore` for all replicas; the store is somebody else's."""

    def __init__(
        self,
        store: Store,
        *,
        lease_ms: int,
        is_away: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_away` says that it need not be asked: nobody waits to hear that."""
        self._store = store
        self._is_away = is_away
        self._lease_ms = lease_ms

    @property
    def lease_ms(self) -> int:
        return self._lease_ms

    async def claim(self, key: ReplayKey, owner: str) -> Claim:
        if self._is_away():
            raise ReplayUnavailable
        try:
            reply = await self._store.run(
                CLAIM,
                replay_keys(key.workspace, key.key),
                (key.fingerprint, owner, self._lease_ms),
            )
        except StoreUnavailable as error:
            raise ReplayUnavailable(is_ambiguous=error.is_ambiguous) from error
        if reply[0] == _FIRST:
            return First()
        if reply[0] == _IN_FLIGHT:
            return InFlight()
        return self._stored(reply[1]) if reply[0] == _STORED else Conflict()

    def _stored(self, packed: bytes) -> Claim:
        try:
            return Stored(unpack_answer(packed))
        except ValueError as error:
            # Of another version, or damaged: neither a replay nor a second run is safe.
            logger.error("a kept answer cannot be read", exc_info=error)
            raise ReplayUnavailable from error

    async def renew(self, key: ReplayKey, owner: str) -> bool:
        return await self._run(END, key, (owner, self._lease_ms))

    async def keep(
        self, key: ReplayKey, owner: str, answer: KeptAnswer, ttl_ms: int
    ) -> bool:
        packed = await pack_beside(answer)
        return await self._run(KEEP, key, (owner, ttl_ms, packed))

    async def release(self, key: ReplayKey, owner: str) -> None:
        await self._run(END, key, (owner, 0))

    async def _run(
        self, script: Script, key: ReplayKey, args: tuple[str | int | bytes, ...]
    ) -> bool:
        keys = replay_keys(key.workspace, key.key)
        try:
            reply = await self._store.run(script, keys, args)
        except StoreUnavailable as error:
            raise ReplayUnavailable(is_ambiguous=error.is_ambiguous) from error
        return bool(reply[0])
