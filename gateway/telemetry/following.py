"""
Metrics of what the ledger, the store, the policy files and the replays count anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, Protocol, get_args

from gateway.telemetry import definitions as d
from gateway.telemetry.instruments import Reading
from gateway.telemetry.metrics import Telemetry
from policies.key_cache import LookupOutcome, StoredKeys
from policies.keyring import Keyring
from policies.outage.breaker import BreakerState
from policies.outage.guarded_ledger import GuardedLedger, Outcome, Stand
from policies.plan_files import PlanBook
from policies.store.errors import Reason

# All there can be, so that each series is there before its first increase.
DECIDED_ALONE: Final[tuple[tuple[Stand, Outcome], ...]] = (
    ("share", "admitted"),
    ("share", "rejected"),
    ("share", "undecided"),
    ("open", "admitted"),
    ("closed", "undecided"),
)


class Policies(Protocol):
    """The plans and keys in force."""

    book: PlanBook
    keyring: Keyring


class RunningReplays(Protocol):
    """What runs and is followed here."""

    @property
    def recordings(self) -> int: ...

    @property
    def followers(self) -> int: ...

    @property
    def held_bytes(self) -> int: ...


def follow_store(
    telemetry: Telemetry,
    ledger: GuardedLedger,
    keys: StoredKeys,
    now_s: Callable[[], float],
) -> None:
    """Show what a shared store says of itself, from now on."""
    add, add_one = telemetry.followed.add, telemetry.followed.add_one
    health, journal = ledger.health, ledger.journal
    breaker = health.breaker
    # Each there before its first increase, which a rate does not see of a new series.
    add(d.STORE_ERRORS, lambda: [((r,), health.errors[r]) for r in get_args(Reason)])
    add(
        d.STORE_BREAKER,
        lambda: [((s,), breaker.state == s) for s in get_args(BreakerState)],
    )
    add_one(d.STORE_DEGRADED, lambda: not health.is_exact)
    add_one(d.STORE_OUTAGES, lambda: breaker.opened_total)
    add_one(d.REPLICAS_SEEN, ledger.count_replicas)
    add(
        d.DEGRADED_DECISIONS,
        lambda: [(each, ledger.decided[each]) for each in DECIDED_ALONE],
    )
    add_one(d.QUEUE_DEPTH, lambda: journal.depth)
    add_one(d.QUEUE_OLDEST, lambda: journal.oldest_age_s)
    add_one(d.SETTLEMENTS_LOST, lambda: journal.lost_total)
    lookups = telemetry.lookups
    add(d.KEY_LOOKUPS, lambda: [((o,), lookups[o]) for o in get_args(LookupOutcome)])
    add_one(d.KEY_CHANGES_FOLLOWED, lambda: keys.is_subscribed)

    def next_expiry() -> Iterator[Reading]:
        ends_s = keys.next_expiry_s(now_s())
        if ends_s is not None:
            yield (), ends_s

    add(d.STORED_KEY_EXPIRY, next_expiry)


def follow_policies(
    telemetry: Telemetry, files: Policies, now: Callable[[], datetime]
) -> None:
    """Show which plans are in force, and when the next key of the file expires."""
    expiries = _NextExpiry(files, now)
    telemetry.followed.add(d.POLICY, lambda: [((files.book.digest,), 1.0)])
    telemetry.followed.add(d.KEY_EXPIRY, expiries.read)


def follow_replays(telemetry: Telemetry, replays: RunningReplays) -> None:
    """Show what is recorded and followed here."""
    add_one = telemetry.followed.add_one
    add_one(d.REPLAY_RECORDINGS, lambda: replays.recordings)
    add_one(d.REPLAY_FOLLOWERS, lambda: replays.followers)
    add_one(d.REPLAY_HELD_BYTES, lambda: replays.held_bytes)


class _NextExpiry:
    """When the next key expires; a file's moments are sorted once."""

    def __init__(self, files: Policies, now: Callable[[], datetime]) -> None:
        self._files = files
        self._now = now
        self._of: Keyring | None = None
        self._moments: list[datetime] = []

    def read(self) -> Iterator[Reading]:
        if self._of is not self._files.keyring:
            self._of = self._files.keyring
            found = (record.expires_at for record in self._of.records)
            self._moments = sorted(moment for moment in found if moment is not None)
        now = self._now()
        for moment in self._moments:
            if moment > now:
                yield (), moment.timestamp()
                return
