"""
The names of everything kept in Redis, built here and nowhere else.

The braces of a name are its cluster slot: what one script touches shares them.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

# A hash, a digest's record in each field. No workspace's, so that a key can be found by
# its digest alone.
KEY_RECORDS: Final = "gw:{keys}:records"
# A sorted set of the same digests, by when they expire.
KEY_EXPIRIES: Final = "gw:{keys}:expiries"
# The channel on which the digest of every changed record is published.
KEY_CHANGES: Final = "gw:{keys}:changed"
# A sorted set of the replicas that live, by until when that is taken for granted.
REPLICAS: Final = "gw:replicas"


@lru_cache(maxsize=10_000)
def ledger_keys(workspace: str) -> tuple[str, str, str]:
    """What the ledger's scripts take: usage, leases, charges."""
    # A workspace's name has none of the characters that would end the slot's part.
    stem = f"gw:{{{workspace}}}"
    return (f"{stem}:usage", f"{stem}:leases", f"{stem}:charges")


def replay_digest(scope: str, key: str) -> str:
    """What a client's key is called here: it may be long, and hold anything."""
    return hashlib.sha256(f"{scope} {key}".encode()).hexdigest()[:40]


def replay_keys(workspace: str, scope: str, digest: str) -> tuple[str, ...]:
    """What the replays' scripts take, as replay_sizes.lua says."""
    # What a cache keeps is counted by itself: it may not push out what was promised.
    stem = f"gw:{{{workspace}}}:{'cache' if scope == 'cache' else 'replay'}"
    record = f"{stem}:{digest}"
    sums = (f"{stem}:sizes", f"{stem}:running", f"{stem}:kept")
    return (record, f"{record}:pieces", *sums)


def job_record(workspace: str, kind: str, record_id: str) -> tuple[str, str]:
    """A record, and the index of its kind, as job_record.lua takes them."""
    stem = f"gw:{{{workspace}}}:jobs"
    return (f"{stem}:record:{kind}:{record_id}", f"{stem}:index:{kind}")


def job_collection(workspace: str, collection: str) -> str:
    """What was collected under a name."""
    return f"gw:{{{workspace}}}:jobs:collected:{collection}"


def job_queue(queue: str) -> tuple[str, str, str]:
    """What job_work.lua takes. No workspace's, so that any replica finds all work."""
    stem = f"gw:{{jobs}}:jobs:{queue}"
    return (f"{stem}:due", f"{stem}:owners", f"{stem}:woken")
