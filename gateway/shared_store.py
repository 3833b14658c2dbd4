"""
What a gateway keeps where all its replicas can see it: the ledger and the keys.

Built from the settings: nothing but a ledger of its own where the store is memory.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from gateway.settings import Settings, seal_of
from gateway.telemetry.following import follow_store
from gateway.telemetry.metrics import Telemetry
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobStore
from policies.jobs.redis_jobs import JOB_SCRIPTS, RedisJobs
from policies.key_cache import StoredKeys
from policies.key_store import KeyStore
from policies.ledger import Ledger
from policies.memory_ledger import MemoryLedger
from policies.outage.guarded_ledger import GuardedLedger
from policies.outage.replicas import Replicas
from policies.redis_ledger import LEDGER_SCRIPTS, RedisLedger
from policies.replay.memory_replays import MemoryReplays
from policies.replay.packing import Packing
from policies.replay.port import ReplayStore
from policies.replay.redis_replays import REPLAY_SCRIPTS, RedisReplays
from policies.store.store import open_store
from policies.store.url import parse_store_url

CLIENT_NAME: Final = "llmtune-gateway"


class OwnLedger:
    """The embedded default: one process counts for itself, keys come from a file."""

    keys: StoredKeys | None = None
    certificate_expiry_s: int | None = None

    def __init__(self, ledger: Ledger, replays: ReplayStore, jobs: JobStore) -> None:
        self.ledger = ledger
        self.replays = replays
        self.jobs = jobs

    def status(self) -> dict[str, Any]:
        return {"kind": "memory"}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield


class SharedStore:
    """A ledger and keys in Redis; what is decided while it is away is bounded."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock_us: Callable[[], int],
        telemetry: Telemetry,
    ) -> None:
        self._kind = parse_store_url(settings.store_url).kind
        self._store = store = open_store(
            settings.store_url,
            timeout_s=settings.store_timeout_s,
            connect_timeout_s=settings.store_connect_timeout_s,
            client_name=CLIENT_NAME,
            scripts=(*LEDGER_SCRIPTS, *REPLAY_SCRIPTS, *JOB_SCRIPTS),
        )
        self.jobs: JobStore = RedisJobs(store)
        lease_ms = int(settings.lease_ttl_s * 1000)
        keys = settings.replay_sealing_keys
        self.replays: ReplayStore = RedisReplays(
            store,
            lease_ms=int(settings.replay_lease_ttl_s * 1000),
            packing=Packing(None if keys is None else seal_of(keys)),
            is_away=lambda: not self.ledger.health.is_closed,
        )
        self.ledger = GuardedLedger(
            RedisLedger(store, lease_ms),
            store=store,
            replicas=Replicas(store, uuid.uuid4().hex, clock_us=clock_us),
            clock_us=clock_us,
            min_replicas=settings.store_min_replicas,
            answered=telemetry.store_answered.note,
        )
        self.keys = StoredKeys(
            KeyStore(store),
            ttl_s=settings.key_cache_ttl_s,
            now_s=time.monotonic,
            count=telemetry.looked_up,
            is_away=lambda: not self.ledger.health.is_readable,
        )
        follow_store(
            telemetry, self.ledger, self.keys, now_s=lambda: clock_us() / 1_000_000
        )

    def status(self) -> dict[str, Any]:
        """What an operator asks of it; never where it is, which holds a password."""
        return {"kind": self._kind, **self.ledger.status()}

    @property
    def certificate_expiry_s(self) -> int | None:
        """When its certificate ends, as Unix time; None without TLS."""
        return self._store.certificate_expiry_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the store and hear of changed keys; the ledger is closed elsewhere."""
        self.ledger.start()
        async with self.keys.following():
            yield


def open_shared_store(
    settings: Settings,
    *,
    clock_us: Callable[[], int],
    telemetry: Telemetry,
    ledger: Ledger | None = None,
) -> OwnLedger | SharedStore:
    """The store that the settings name; a ledger that is given stands for memory's."""
    if ledger is None and parse_store_url(settings.store_url).kind != "memory":
        return SharedStore(settings, clock_us=clock_us, telemetry=telemetry)
    lease_ms = int(settings.lease_ttl_s * 1000)
    own = MemoryLedger(clock_us, lease_ttl_ms=lease_ms)
    replays = MemoryReplays(
        lambda: clock_us() // 1000, lease_ms=int(settings.replay_lease_ttl_s * 1000)
    )
    jobs = MemoryJobs(lambda: clock_us() // 1000)
    return OwnLedger(ledger or own, replays, jobs)
