"""Long jobs as they begin: once for an `Idempotency-Key`, never without a driver."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from gateway.auth import Principal
from gateway.errors import IdempotencyKeyReused
from policies.jobs.port import JobStore, RecordName

# Until a record that is due at once is surely there, or surely not.
SURELY_MADE_MS: Final = 60_000

_ID, _REQUEST = "id", "request"


def item_of(name: RecordName) -> str:
    """A record as an item of work."""
    return f"{name.workspace} {name.record_id}"


async def start(
    jobs: JobStore, queue: str, name: RecordName, body: bytes, ttl_ms: int
) -> bool:
    """
    Keep a record that a worker drives; False if it is there already. JobsUnavailable.

    Scheduled before and after: whoever dies in between leaves no record that nobody
    ever looks at.
    """
    item = item_of(name)
    await jobs.schedule(queue, item, in_ms=SURELY_MADE_MS)
    is_new = await jobs.create(name, body, ttl_ms)
    await jobs.schedule(queue, item)
    return is_new


async def id_under_key(
    jobs: JobStore,
    principal: Principal,
    kind: str,
    key: str | None,
    request: Any,
    new_id: str,
) -> str:
    """
    The id of what is asked for under an `Idempotency-Key`: this one, or the first's.

    IdempotencyKeyReused where something else was asked under it. JobsUnavailable.
    """
    if key is None:
        return new_id
    digest = hashlib.sha256(msgspec.json.encode(request, order="sorted")).digest()
    # A client's key may be long, and hold anything.
    name = f"key:{kind}:{hashlib.sha256(key.encode()).hexdigest()}"
    ttl_ms = principal.plan.idempotency.ttl_s * 1000
    entries = {_ID: new_id.encode(), _REQUEST: digest}
    if await jobs.collect(principal.workspace, name, entries, ttl_ms):
        return new_id
    first = await jobs.collected(principal.workspace, name)
    if first.get(_REQUEST, digest) != digest:
        raise IdempotencyKeyReused(
            "This Idempotency-Key was used for another request.",
            param="Idempotency-Key",
        )
    return first.get(_ID, entries[_ID]).decode()
