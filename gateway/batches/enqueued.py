"""
What a workspace's batches have under way, held to its plan's batch limits.

One record a workspace, changed only as it was read: exact over all replicas. A batch
that finds no room waits; it is never refused for that.
"""

from __future__ import annotations

from typing import Final

import msgspec

from policies.jobs.port import JobStore, RecordName
from policies.plans import BatchLimits

KIND: Final = "enqueued"
# Then it begins anew: each batch says again what it holds whenever that changes.
TTL_MS: Final = 7 * 86_400_000
# Others change the same record at the same instant: seldom, and not so often in a row.
MOST_TRIES: Final = 20

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, int]).decode


class Enqueued:
    """Tokens under way, by batch; JobsUnavailable."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    async def set(
        self, workspace: str, batch_id: str, tokens: int, limits: BatchLimits | None
    ) -> bool:
        """
        Have a batch hold so many tokens, 0 to have none; False if there is no room.

        More than fit at all fit alone: a chunk larger than the limit must not wait for
        ever. `limits` None is for what may never be refused: less.
        """
        name = RecordName(workspace, KIND, "tokens")
        for _ in range(MOST_TRIES):
            kept = await self._jobs.read(name)
            held = {} if kept is None else _decode(kept.body)
            if limits is not None and not has_room(held, batch_id, tokens, limits):
                return False
            held.pop(batch_id, None)
            if tokens:
                held[batch_id] = tokens
            body = _encode(held)
            if kept is None:
                is_done = await self._jobs.create(name, body, TTL_MS)
            else:
                is_done = await self._jobs.replace(name, body, kept.version)
            if is_done:
                return True
        return False


def has_room(
    held: dict[str, int], batch_id: str, tokens: int, limits: BatchLimits
) -> bool:
    """Whether a batch may hold so many beside what the others hold."""
    others = {each: held[each] for each in held if each != batch_id}
    most = limits.concurrent_batches
    if most is not None and batch_id not in held and len(others) >= most:
        return False
    if limits.enqueued_tokens is None or tokens <= held.get(batch_id, 0):
        return True
    if sum(others.values()) + tokens <= limits.enqueued_tokens:
        return True
    return not others and batch_id not in held
