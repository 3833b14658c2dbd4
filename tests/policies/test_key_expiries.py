"""Which end of which key an operator is told of: one that somebody counts on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from policies.key_cache import LASTING, USED_WITHIN_S, StoredKeys
from policies.key_store import KeyStore
from tests.policies.keys_in_redis import digest, key_store, stored_key
from tests.redis_fixtures import StartRedis

DAY: Final = timedelta(days=1)
NOW: Final = datetime(2030, 6, 1, tzinfo=UTC)
SOON: Final = NOW + 3 * DAY


class Told:
    """A replica on its own clock, and what it tells."""

    def __init__(self, keys: KeyStore) -> None:
        self.now_s = 1000.0
        self.operator = keys
        self.keys = StoredKeys(keys, ttl_s=30.0, now_s=lambda: self.now_s)

    async def make(self, name: str, expires_at: datetime | None, **fields: Any) -> None:
        """A key of last year's, unless told otherwise."""
        known = {"created_at": NOW - 365 * DAY, "expires_at": expires_at}
        await self.operator.create(stored_key(name, **(known | fields)))

    async def use(self, *names: str) -> None:
        for name in names:
            assert await self.keys.find(digest(name)) is not None

    def next(self, now: datetime = NOW) -> datetime | None:
        ends_s = self.keys.next_expiry_s(now.timestamp())
        return None if ends_s is None else datetime.fromtimestamp(ends_s, UTC)


@pytest.fixture
async def told(start_redis: StartRedis) -> Any:
    server = await start_redis()
    async with key_store(server.unix_url) as keys:
        yield Told(keys)


async def test_the_next_of_the_keys_that_are_used_is_told(told: Told) -> None:
    """Not of one that nobody has used, has expired or never will."""
    await told.make("unused", NOW + DAY)
    await told.make("gone", NOW - DAY)
    await told.make("soon", SOON)
    await told.make("later", SOON + DAY)
    await told.make("endless", None)
    assert told.next() is None
    await told.use("later", "endless", "gone")
    assert told.next() == SOON + DAY
    await told.use("soon")

    assert told.next() == SOON
    assert told.next(SOON) == SOON + DAY
    assert told.next(SOON + DAY) is None


async def test_a_key_that_was_made_to_end_is_no_news(told: Told) -> None:
    """A token of a build's would be near its end all its life."""
    made = SOON - LASTING
    await told.make("brief", SOON, created_at=made + timedelta(seconds=1))
    await told.use("brief")
    assert told.next() is None

    await told.make("lasting", SOON, created_at=made)
    await told.use("lasting")
    assert told.next() == SOON


async def test_a_rotated_key_is_its_successors_business(told: Told) -> None:
    """Which ends when the old one would have, and so however young it is."""
    await told.make("old", SOON, rotated_to="11111111")
    await told.use("old")
    assert told.next() is None

    await told.make("new", SOON, created_at=NOW, rotated_from="22222222")
    await told.use("new")
    assert told.next() == SOON


async def test_a_key_that_is_no_longer_used_is_forgotten(told: Told) -> None:
    """A day after its last use, or at once where it is changed."""
    await told.make("idle", SOON)
    await told.make("revoked", SOON - DAY)
    await told.use("idle", "revoked")
    told.keys.forget(digest("revoked"))
    assert told.next() == SOON

    told.now_s += USED_WITHIN_S
    assert told.next() == SOON
    told.now_s += 1
    assert told.next() is None
