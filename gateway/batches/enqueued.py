"""
What a workspace's batches have under way, held to its plan's limits.

What is charged only when it is written counts for the budgets while it is under way, so
that many chunks cannot be begun on what is left for one. One record a workspace,
changed only as it was read: exact over all replicas. A batch that finds no room waits;
it is never refused for that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec

from policies.jobs.port import JobStore, RecordName
from policies.ledger import Usage
from policies.plans import BatchLimits

KIND: Final = "enqueued"
# After the last change; each batch says again what it holds whenever that changes.
TTL_MS: Final = 7 * 86_400_000
# Others change the same record at the same instant: seldom, and not so often in a row.
MOST_TRIES: Final = 20

# Whether the budgets have room for what is under way and not charged yet.
Affords = Callable[[Usage], Awaitable[bool]]


class UnderWay(msgspec.Struct, frozen=True, array_like=True):
    """What a batch has under way, and what of it is charged when it is written."""

    tokens: int = 0
    uncharged_lines: int = 0
    uncharged_tokens: int = 0


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, UnderWay]).decode


class Enqueued:
    """Tokens under way, by batch; JobsUnavailable."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    async def set(self, workspace: str, batch_id: str, under_way: UnderWay) -> bool:
        """Have a batch hold less, or nothing; False if others were faster each time."""
        return await self._set(workspace, batch_id, under_way, None, None)

    async def grow(
        self,
        workspace: str,
        batch_id: str,
        under_way: UnderWay,
        limits: BatchLimits,
        affords: Affords,
    ) -> bool:
        """
        Have a batch hold more; False if there is no room.

        More than fit at all fit alone: a chunk larger than the limit must not wait for
        ever.
        """
        return await self._set(workspace, batch_id, under_way, limits, affords)

    async def _set(
        self,
        workspace: str,
        batch_id: str,
        under_way: UnderWay,
        limits: BatchLimits | None,
        affords: Affords | None,
    ) -> bool:
        name = _name(workspace)
        for _ in range(MOST_TRIES):
            kept = await self._jobs.read(name)
            held = {} if kept is None else _decode(kept.body)
            if limits is not None and not has_room(
                held, batch_id, under_way.tokens, limits
            ):
                return False
            held.pop(batch_id, None)
            if under_way.tokens:
                held[batch_id] = under_way
            if affords is not None and not await affords(_uncharged(held.values())):
                return False
            body = _encode(held)
            if kept is None:
                is_done = await self._jobs.create(name, body, TTL_MS)
            else:
                is_done = await self._jobs.replace(name, body, kept.version, TTL_MS)
            if is_done:
                return True
        return False

    async def batches(self, workspace: str) -> Sequence[str]:
        """Those that hold something."""
        kept = await self._jobs.read(_name(workspace))
        return () if kept is None else tuple(_decode(kept.body))


def has_room(
    held: dict[str, UnderWay], batch_id: str, tokens: int, limits: BatchLimits
) -> bool:
    """Whether a batch may hold so many beside what the others hold."""
    others = [held[each].tokens for each in held if each != batch_id]
    most = limits.concurrent_batches
    if most is not None and batch_id not in held and len(others) >= most:
        return False
    mine = held[batch_id].tokens if batch_id in held else 0
    if limits.enqueued_tokens is None or tokens <= mine:
        return True
    if sum(others) + tokens <= limits.enqueued_tokens:
        return True
    return not others and batch_id not in held


def _uncharged(held: Iterable[UnderWay]) -> Usage:
    every = list(held)
    return Usage(
        sum(each.uncharged_lines for each in every),
        sum(each.uncharged_tokens for each in every),
    )


def _name(workspace: str) -> RecordName:
    return RecordName(workspace, KIND, "tokens")
