"""
Keys of the store, remembered: what a replica knows without asking Redis.

- A key is asked for again after `ttl_s` whatever else happens, and at once after a
  change of it was published. While the subscription is down the ttl alone holds.
- Guessing cannot drive Redis: what is unknown is remembered too, and look-ups that find
  nothing are limited. A key that is remembered is never held up by them.
- While Redis is away, a remembered key goes on working; whether any other one is good
  nobody knows, so nobody says that it is not.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import Enum
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

from policies.key_store import KeyStore, StoredKey, UnreadableRecord
from policies.keyring import KEY_ID_CHARS
from policies.store.errors import StoreUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How a look-up went, for a metric.
LookupOutcome: TypeAlias = Literal[
    "hit",  # remembered as good
    "unknown_hit",  # remembered as unknown
    "found",
    "unknown",
    "stale",  # the store is away; what was remembered served
    "store_error",  # the store is away, and nothing was remembered
    "over_budget",  # not asked, because too many guesses were
]

# Some 700 bytes each, 35 MB in all. Beyond it the keys used least are asked for again.
MAX_KNOWN: Final = 50_000
# Never reached: the budget lets in some 700 within their ttl.
MAX_UNKNOWN: Final = 10_000
# Creation publishes, so this bounds how long a new key is refused only where the
# subscription is cut. Longer spares Redis nothing that the budget does not.
UNKNOWN_TTL_S: Final = 5.0
# An outage is usually over within minutes. For longer than this a revoked key must not
# live on because a replica, and perhaps it alone, cannot ask.
STALE_S: Final = 600.0
# During an outage each key costs one attempt a second instead of one a request.
STALE_RETRY_S: Final = 1.0
# Of look-ups that find nothing: far more than honest mistakes, and nothing to Redis.
LOOKUPS_PER_S: Final = 100
LOOKUP_BURST: Final = 200
# A key that was made for less is meant to end: a token of a build, or of an evening.
LASTING: Final = timedelta(days=30)
# Whoever has not used a key for a day is hardly waiting for it to work.
USED_WITHIN_S: Final = 86_400.0
# Long enough for a fail-over to make progress, short enough for a person not to notice.
RETRY_AFTER_MS: Final = 1000


class KeysUnavailable(Exception):
    """Whether the key is good cannot be told now."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__("the store cannot be asked for keys now")
        self.retry_after_ms = retry_after_ms


class _Answer(Enum):
    AWAY = "the store could not be asked"


class _Known(msgspec.Struct):
    record: StoredKey
    # When the store was asked, on the cache's clock.
    asked_s: float
    fresh_until_s: float
    # Of which subscription; an earlier one may have missed changes.
    era: int
    # As `_missed_from_s`; kept because a scrape looks at all keys that are known.
    missed_from_s: float


class _Flight(msgspec.Struct):
    """A look-up on its way, shared by everybody who asks for the same key."""

    task: asyncio.Task[StoredKey | _Answer | None] | None = None
    # Something changed after it was sent: its answer is good for those who asked
    # before, and not to be remembered.
    is_outdated: bool = False


class LookupBudget:
    """How many look-ups may find nothing: a bucket of them, refilled steadily."""

    def __init__(self, *, per_s: float, burst: int, now_s: float) -> None:
        self._per_s = per_s
        self._capacity = burst
        self._level = float(burst)
        self._filled_s = now_s

    def take(self, now_s: float) -> bool:
        """Whether there was one left."""
        grown = self._level + (now_s - self._filled_s) * self._per_s
        self._level, self._filled_s = min(self._capacity, grown), now_s
        if self._level < 1:
            return False
        self._level -= 1
        return True

    def give_back(self) -> None:
        self._level = min(self._capacity, self._level + 1)


class StoredKeys:
    """The keys of the store as one replica knows them."""

    def __init__(
        self,
        keys: KeyStore,
        *,
        ttl_s: float,
        now_s: Callable[[], float],
        count: Callable[[LookupOutcome], None] = lambda outcome: None,
        is_away: Callable[[], bool] = lambda: False,
        max_known: int = MAX_KNOWN,
    ) -> None:
        """
        `now_s` is a steady clock; `count` hears how each look-up went; `is_away` says
        that the store is known not to answer, so that nobody waits for it to be asked.
        """
        self._keys = keys
        self._ttl_s = ttl_s
        self._now_s = now_s
        self._count = count
        self._is_away = is_away
        self._max_known = max_known
        self._known: OrderedDict[str, _Known] = OrderedDict()
        # Until when a digest counts as unknown.
        self._unknown: OrderedDict[str, float] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[StoredKey | _Answer | None]] = set()
        self._budget = LookupBudget(
            per_s=LOOKUPS_PER_S, burst=LOOKUP_BURST, now_s=now_s()
        )
        self._era = 0
        self.is_subscribed = False

    def __len__(self) -> int:
        return len(self._known)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Hear of changes as they are made, until the block ends."""
        try:
            async with self._keys.following(
                on_change=self.forget, on_up=self._up, on_down=self._down
            ):
                yield
        finally:
            await self._land()

    async def find(self, digest: str) -> StoredKey | None:
        """
        The record of a digest, even if it has expired; None where there is none.

        Raises KeysUnavailable. A record that is remembered comes without waiting.
        """
        now_s = self._now_s()
        known = self._known.get(digest)
        if known is not None and self._is_fresh(known, now_s):
            self._known.move_to_end(digest)
            self._count("hit")
            # As in Keyring.lookup_digest.
            is_same = hmac.compare_digest(known.record.sha256, digest)
            return known.record if is_same else None
        if known is None and self._unknown.get(digest, now_s) > now_s:
            self._count("unknown_hit")
            return None
        answer: StoredKey | _Answer | None
        if self._is_away():
            answer = self._remembered(digest)
        else:
            answer = await self._ask(digest, now_s, is_guess=known is None)
        if isinstance(answer, _Answer):
            raise KeysUnavailable(RETRY_AFTER_MS)
        return answer

    def next_expiry_s(self, now_s: float) -> float | None:
        """
        When the next key expires that somebody may have forgotten about, as Unix time.

        It was used here within the day, made to last, and has not been rotated. Only
        what is remembered is looked at, so this costs the store nothing.
        """
        since_s = self._now_s() - USED_WITHIN_S
        found = (
            known.missed_from_s
            for known in self._known.values()
            if known.missed_from_s > now_s and known.asked_s >= since_s
        )
        return min(found, default=None)

    def forget(self, digest: str) -> None:
        """Drop what is remembered of a digest, and what is being asked."""
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)
        flight = self._flights.pop(digest, None)
        if flight is not None:
            flight.is_outdated = True

    def _up(self) -> None:
        # Whatever was published meanwhile is lost, so everything is asked for again.
        # Records are kept beside the question, in case the store is gone once more.
        self.is_subscribed = True
        self._era += 1
        self._unknown.clear()
        for flight in self._flights.values():
            flight.is_outdated = True
        self._flights.clear()

    def _down(self) -> None:
        self.is_subscribed = False

    def _is_fresh(self, known: _Known, now_s: float) -> bool:
        return known.era == self._era and now_s < known.fresh_until_s

    async def _ask(
        self, digest: str, now_s: float, *, is_guess: bool
    ) -> StoredKey | _Answer | None:
        flight = self._flights.get(digest)
        if flight is None:
            flight = self._launch(digest, now_s, is_guess=is_guess)
        assert flight.task is not None  # noqa: S101 - launched with it
        # Shielded: a client that leaves takes the answer from nobody else.
        return await asyncio.shield(flight.task)

    def _launch(self, digest: str, now_s: float, *, is_guess: bool) -> _Flight:
        if is_guess and not self._budget.take(now_s):
            self._count("over_budget")
            raise KeysUnavailable(RETRY_AFTER_MS)
        flight = self._flights[digest] = _Flight()
        flight.task = asyncio.create_task(
            self._look_up(digest, flight, now_s, is_guess=is_guess)
        )
        self._tasks.add(flight.task)
        flight.task.add_done_callback(self._tasks.discard)
        return flight

    async def _look_up(
        self, digest: str, flight: _Flight, asked_s: float, *, is_guess: bool
    ) -> StoredKey | _Answer | None:
        try:
            record = await self._keys.find(digest)
        except StoreUnavailable:
            return self._remembered(digest)
        except UnreadableRecord:
            logger.error("key %s has an unreadable record", digest[:KEY_ID_CHARS])
            return self._remembered(digest)
        finally:
            if not flight.is_outdated:
                del self._flights[digest]
        self._count("unknown" if record is None else "found")
        if record is not None and is_guess:
            # It was none: a replica that starts may meet thousands of good keys.
            self._budget.give_back()
        if not flight.is_outdated:
            self._remember(digest, record, asked_s)
        return record

    def _remember(self, digest: str, record: StoredKey | None, asked_s: float) -> None:
        if record is None:
            self._known.pop(digest, None)
            self._unknown[digest] = asked_s + UNKNOWN_TTL_S
            self._unknown.move_to_end(digest)
            _trim(self._unknown, MAX_UNKNOWN)
            return
        fresh_until_s = asked_s + self._ttl_s
        self._known[digest] = _Known(
            record, asked_s, fresh_until_s, self._era, _missed_from_s(record)
        )
        self._known.move_to_end(digest)
        _trim(self._known, self._max_known)

    def _remembered(self, digest: str) -> StoredKey | _Answer:
        """What to go by while the store is away; nothing of a key that was changed."""
        known = self._known.get(digest)
        now_s = self._now_s()
        if known is None or now_s >= known.asked_s + self._ttl_s + STALE_S:
            self._count("store_error")
            return _Answer.AWAY
        known.fresh_until_s, known.era = now_s + STALE_RETRY_S, self._era
        self._count("stale")
        return known.record

    async def _land(self) -> None:
        # Not cancelled, because somebody may wait; the store's time-out bounds them.
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _missed_from_s(key: StoredKey) -> float:
    """When whoever counts on a key will miss it, as Unix time; 0 where nobody will."""
    if key.expires_at is None or key.rotated_to is not None:
        return 0.0
    # A rotated key ends when its predecessor would have, however soon that is.
    is_lasting = key.expires_at - key.created_at >= LASTING
    return key.expires_at.timestamp() if is_lasting or key.rotated_from else 0.0


def _trim(entries: OrderedDict[str, T], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
