"""Replays of all replicas, in Redis: one script a step, by the server's clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from policies.key_names import replay_digest, replay_keys
from policies.replay.packing import Packing
from policies.replay.port import (
    DEAD_KNOWN_MS,
    GONE,
    Bounds,
    Claim,
    Conflict,
    First,
    InFlight,
    Part,
    Reading,
    ReplayDamaged,
    ReplayKey,
    ReplayUnavailable,
    Standing,
    Stored,
)
from policies.store.errors import StoreUnavailable
from policies.store.scripts import Script, load_script
from policies.store.store import Argument, Store

logger = logging.getLogger(__name__)

CLAIM: Final[Script] = load_script("replay_sizes", "replay_claim")
APPEND: Final = load_script("replay_sizes", "replay_append")
# Also where memory is full: what is given back gives some.
END: Final = load_script("replay_sizes", "replay_end", is_allowed_when_full=True)
READ: Final = load_script("replay_read")
REPLAY_SCRIPTS: Final = (CLAIM, APPEND, END, READ)

_FIRST, _STORED, _IN_FLIGHT, _CONFLICT = 0, 1, 2, 3
_GONE, _RUNNING = 0, 1

# Read at once: what hundreds of readers who lag behind have in memory each.
PIECES_READ: Final = 64
BYTES_READ: Final = 32 * 1024

# Rounds of eight answers that make room for one more, at most.
MOST_MADE_ROOM: Final = 64

# To compress this much takes 1 ms, and a thread's hand-over 50 us.
PACKED_BESIDE_BYTES: Final = 128 * 1024


class RedisReplays:
    """Implements `ReplayStore` for all replicas; the store is somebody else's."""

    def __init__(
        self,
        store: Store,
        *,
        lease_ms: int,
        packing: Packing | None = None,
        is_away: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_away` says that it need not be asked: nobody waits to hear that."""
        self._store = store
        self._is_away = is_away
        self._lease_ms = lease_ms
        self._packing = packing or Packing()

    @property
    def lease_ms(self) -> int:
        return self._lease_ms

    async def claim(
        self, key: ReplayKey, owner: str, *, replaces: bool = False
    ) -> Claim:
        fingerprints = self._packing.fingerprints(key.fingerprint)
        digest = replay_digest(key.scope, key.key)
        head = (owner, self._lease_ms, DEAD_KNOWN_MS, int(replaces), digest)
        reply = await self._run(CLAIM, key, (*head, *fingerprints))
        if reply[0] == _FIRST:
            return First(tuple(reply[1].decode().split()))
        if reply[0] == _STORED:
            return Stored(reply[1].decode())
        if reply[0] == _IN_FLIGHT:
            return InFlight(reply[1].decode(), is_joinable=not reply[2])
        if reply[0] == _CONFLICT:
            return Conflict()
        # A replica that does not know the newest key yet, or the oldest any more.
        logger.error("a request's digest is sealed with a key that is not here")
        raise ReplayDamaged

    async def append(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        return await self._append(key, owner, part, bounds, ttl_ms=0)

    async def keep(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        return await self._append(key, owner, part, bounds, ttl_ms=bounds.ttl_ms)

    async def _append(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds, *, ttl_ms: int
    ) -> Standing:
        digest = replay_digest(key.scope, key.key)
        is_whole = ttl_ms > 0 and part.start == 0 and part.head is not None
        name = _name(key, owner)
        head, piece = await self._packed(name, part, is_whole=is_whole)
        args = (
            *(owner, self._lease_ms, DEAD_KNOWN_MS, digest),
            *(part.start, part.end, head, piece),
            *(bounds.max_workspace_bytes, ttl_ms),
            self._packing.fingerprints(key.fingerprint)[0] if is_whole else b"",
        )
        for _ in range(MOST_MADE_ROOM):
            held, followed, room, *oldest = await self._run(APPEND, key, args)
            if room or not oldest:
                return Standing(bool(held), bool(followed), bool(room))
            # What was answered longest ago makes room, before its time.
            forgotten = [self._forget(key, each.decode()) for each in oldest]
            await asyncio.gather(*forgotten)
        return Standing(is_held=True, has_room=False)

    async def _packed(
        self, name: str, part: Part, *, is_whole: bool
    ) -> tuple[bytes, bytes]:
        head = piece = b""
        if part.head is not None:
            head = self._packing.pack_head(part.head, name)
        if part.data or is_whole:
            pack, place = self._packing.pack, _place(part.end)
            if len(part.data) <= PACKED_BESIDE_BYTES:
                piece = pack(part.data, name, place)
            else:
                piece = await asyncio.to_thread(pack, part.data, name, place)
        return head, piece

    async def _forget(self, key: ReplayKey, digest: str) -> None:
        keys = replay_keys(key.workspace, key.scope, digest)
        await self._call(END, keys, ("", digest, 0))

    async def withdraw(self, key: ReplayKey, owner: str) -> None:
        digest = replay_digest(key.scope, key.key)
        await self._run(END, key, (owner, digest, 1))

    async def release(self, key: ReplayKey, owner: str) -> None:
        digest = replay_digest(key.scope, key.key)
        await self._run(END, key, (owner, digest, 0))

    async def read(
        self, key: ReplayKey, recording: str, offset: int, *, follows: bool = True
    ) -> Reading:
        # Asked for once, at the beginning.
        is_head_asked = int(offset == 0)
        names = replay_keys(key.workspace, key.scope, replay_digest(key.scope, key.key))
        bounds = (PIECES_READ, BYTES_READ)
        follow_ms = self._lease_ms if follows else 0
        args = (recording, offset, *bounds, is_head_asked, follow_ms)
        reply = await self._call(READ, names[:2], args)
        if reply[0] == _GONE:
            return GONE
        try:
            return await self._unpacked(reply, _name(key, recording), offset)
        except ValueError as error:
            # Of another version, or damaged: neither a replay nor a second run is safe.
            logger.error("a kept answer cannot be read", exc_info=error)
            raise ReplayDamaged from error

    async def _unpacked(self, reply: Sequence[Any], name: str, offset: int) -> Reading:
        size = sum(len(entry[1][1]) for entry in reply[2])
        if size <= PACKED_BESIDE_BYTES:
            return self._reading(reply, name, offset)
        return await asyncio.to_thread(self._reading, reply, name, offset)

    def _reading(self, reply: Sequence[Any], name: str, offset: int) -> Reading:
        state, packed_head, entries, length = reply
        unpack = self._packing.unpack
        head = None
        if packed_head:
            head = self._packing.unpack_head(packed_head, name)
        data, at = [], offset
        for entry_id, (_, packed) in entries:
            end = int(entry_id.partition(b"-")[0])
            piece = unpack(packed, name, _place(end))
            # Read from its middle, or by somebody who knows some of it.
            data.append(piece[max(0, len(piece) - (end - at)) :])
            if end - at > len(piece):
                raise ValueError("a piece of an answer is missing")
            at = end
        if at < length and not entries:
            raise ValueError("the rest of an answer is missing")
        is_end = state != _RUNNING and at == length
        return Reading("complete" if is_end else "running", head, b"".join(data))

    async def _run(
        self, script: Script, key: ReplayKey, args: Sequence[Argument]
    ) -> Any:
        digest = replay_digest(key.scope, key.key)
        return await self._call(
            script, replay_keys(key.workspace, key.scope, digest), args
        )

    async def _call(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument]
    ) -> Any:
        if self._is_away():
            raise ReplayUnavailable
        try:
            return await self._store.run(script, keys, args)
        except StoreUnavailable as error:
            raise ReplayUnavailable(is_ambiguous=error.is_ambiguous) from error


def _name(key: ReplayKey, owner: str) -> str:
    """A recording's, among all that are sealed with one key."""
    return f"{key.workspace} {replay_digest(key.scope, key.key)} {owner}"


def _place(end: int) -> bytes:
    return b"%d" % end
