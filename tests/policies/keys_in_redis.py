"""What tests of stored keys share: digests, records, and a store to keep them in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from policies.key_store import KeyStore, StoredKey
from policies.store.store import open_store

CREATED: Final = datetime(2026, 11, 2, 5, tzinfo=UTC)


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def stored_key(of: str, /, **fields: Any) -> StoredKey:
    """A record whose digest is this text's."""
    own = digest(of)
    known: dict[str, Any] = {"workspace": "acme", "plan": "growth", "scope": own[:16]}
    known["created_at"] = CREATED
    return StoredKey(sha256=own, **(known | fields))


@asynccontextmanager
async def key_store(url: str, timeout_s: float = 5.0) -> AsyncIterator[KeyStore]:
    """Keys on that server; the time-out is long, for a test is about something else."""
    store = open_store(
        url, timeout_s=timeout_s, connect_timeout_s=timeout_s, client_name="keys-test"
    )
    try:
        yield KeyStore(store)
    finally:
        await store.aclose()
