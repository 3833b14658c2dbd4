"""API keys in a real Redis: found, changed as a whole, rotated, listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from policies.key_names import KEY_CHANGES, KEY_EXPIRIES, KEY_RECORDS
from policies.key_store import (
    KeyChangeRefused,
    KeyStore,
    StoredKey,
    UnreadableRecord,
    new_stored_key,
)
from policies.keyring import KeyRecord
from policies.plans import Concurrency, KeyLimits, Quota, Rate
from tests.policies.keys_in_redis import digest, key_store, stored_key
from tests.redis_servers import FakeClock, RedisCluster, RedisServer

NOW = datetime(2026, 11, 2, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)

WHOLE = {
    "name": "CI of the search team",
    "models": ("gpt-4o", "meta/*"),
    "limits": KeyLimits(
        concurrency=Concurrency(limit=2),
        rates=(Rate(of="requests", limit=60, per="minute", burst=90),),
        quotas=(Quota(of="tokens", limit=2**40, per="month", shadow=True),),
    ),
    "expires_at": NOW + 90 * 24 * HOUR,
}


@pytest.fixture
async def keys(timed_redis: RedisServer) -> AsyncIterator[KeyStore]:
    """Keys in an empty Redis, at NOW."""
    async with key_store(timed_redis.unix_url) as keys:
        yield keys


async def test_a_key_is_found_as_it_was_kept(keys: KeyStore) -> None:
    """Every field survives, down to the zone of its times."""
    whole, plain = stored_key("whole", **WHOLE), stored_key("plain")

    await keys.create(whole)
    await keys.create(plain)

    assert whole == await keys.find(digest("whole"))
    assert plain == await keys.find(digest("plain"))
    assert await keys.find(digest("nobody's")) is None


async def test_a_new_key_counts_in_a_scope_of_its_own(keys: KeyStore) -> None:
    """The scope begins as its digest does, and every field is taken over."""
    record = KeyRecord(sha256=digest("k"), workspace="w", plan="p", name="n")

    key = new_stored_key(record, NOW)

    assert (digest("k")[:16], "n", NOW) == (key.scope_id, key.name, key.created_at)


async def test_a_change_whose_reply_was_lost_may_be_made_again(keys: KeyStore) -> None:
    """The second run finds its own work and says yes; others' work it leaves alone."""
    await keys.create(stored_key("k"))

    await keys.create(stored_key("k"))
    with pytest.raises(KeyChangeRefused, match="already"):
        await keys.create(stored_key("k", workspace="other"))

    assert stored_key("k") == await keys.find(digest("k"))


async def test_a_revoked_key_is_gone_and_revoking_again_is_harmless(
    keys: KeyStore,
) -> None:
    """What is not there needs no error: it must not work, and does not."""
    await keys.create(stored_key("k"))

    await keys.revoke(digest("k"))
    await keys.revoke(digest("k"))

    assert await keys.find(digest("k")) is None


async def test_every_change_is_published_with_it(
    keys: KeyStore, timed_redis: RedisServer
) -> None:
    """The digest alone, for each record that a change touches."""
    async with timed_redis.connect().pubsub() as listener:
        await listener.subscribe(KEY_CHANGES)
        await keys.create(stored_key("old"))
        await keys.rotate(digest("old"), digest("new"), HOUR)
        await keys.revoke(digest("new"))
        heard: list[Any] = []
        async with asyncio.timeout(5):
            async for message in listener.listen():
                heard += [message["data"]] if message["type"] == "message" else []
                if len(heard) == 4:
                    break

    assert [digest("old"), digest("old"), digest("new"), digest("new")] == heard


async def test_a_rotation_hands_everything_on(keys: KeyStore) -> None:
    """The new key may do what the old one could, and counts where it did."""
    old = stored_key("old", **WHOLE)
    await keys.create(old)

    new = await keys.rotate(digest("old"), digest("new"), HOUR)

    expected = msgspec.structs.replace(
        old, sha256=digest("new"), created_at=NOW, rotated_from=old.key_id
    )
    assert expected == new == await keys.find(digest("new"))
    assert old.scope_id == new.scope_id


async def test_a_rotated_key_works_until_the_overlap_is_over(keys: KeyStore) -> None:
    """Not a moment longer, and it says what replaces it."""
    await keys.create(stored_key("old"))

    new = await keys.rotate(digest("old"), digest("new"), HOUR)

    old = await keys.find(digest("old"))
    assert old is not None
    assert (NOW + HOUR, new.key_id) == (old.expires_at, old.rotated_to)
    assert old.is_rotating(NOW + HOUR - timedelta(milliseconds=1))
    assert not old.is_rotating(NOW + HOUR)


async def test_an_overlap_lengthens_no_life(keys: KeyStore) -> None:
    """A key that would have ended within the overlap ends when it would have."""
    await keys.create(stored_key("old", expires_at=NOW + HOUR))

    await keys.rotate(digest("old"), digest("new"), 24 * HOUR)

    old = await keys.find(digest("old"))
    assert old is not None
    assert NOW + HOUR == old.expires_at


async def test_a_key_is_rotated_once_and_then_its_successor_is(keys: KeyStore) -> None:
    """A second rotation of the old key would leave two successors in the world."""
    await keys.create(stored_key("a"))
    b = await keys.rotate(digest("a"), digest("b"), HOUR)

    with pytest.raises(KeyChangeRefused, match=f"{b.key_id} replaces it"):
        await keys.rotate(digest("a"), digest("x"), HOUR)
    c = await keys.rotate(digest("b"), digest("c"), HOUR)

    assert (b.key_id, b.scope) == (c.rotated_from, c.scope)
    assert await keys.find(digest("x")) is None


async def test_of_rotations_at_the_same_time_one_wins(keys: KeyStore) -> None:
    """However many run, one successor comes into the world."""
    await keys.create(stored_key("old"))

    rotations = (
        keys.rotate(digest("old"), digest(f"new {n}"), HOUR) for n in range(10)
    )
    ended = await asyncio.gather(*rotations, return_exceptions=True)

    refusals = [end for end in ended if isinstance(end, KeyChangeRefused)]
    assert (9, 2) == (len(refusals), len(await keys.find_all()))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        pytest.param({"expires_at": NOW}, "has expired", id="expired"),
        pytest.param(None, "no longer in the store", id="revoked"),
    ],
)
async def test_what_does_not_work_is_not_rotated(
    keys: KeyStore, fields: dict[str, Any] | None, problem: str
) -> None:
    """A rotation is no way to bring a key back."""
    if fields is not None:
        await keys.create(stored_key("old", **fields))

    with pytest.raises(KeyChangeRefused, match=problem):
        await keys.rotate(digest("old"), digest("new"), HOUR)

    assert await keys.find(digest("new")) is None


async def test_what_expired_long_ago_is_dropped_on_the_way(
    keys: KeyStore, timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """After thirty days nobody asks why the key stopped; any change clears up."""
    await keys.create(stored_key("soon over", expires_at=NOW + HOUR))
    await keys.create(stored_key("later over", expires_at=NOW + 30 * 24 * HOUR))
    await keys.create(stored_key("for ever"))
    redis_clock.advance(ms=31 * 24 * 3_600_000)

    assert await keys.find(digest("soon over")) is not None
    await keys.create(stored_key("another"))

    left = {found.sha256 for found in await keys.find_all()}
    assert {digest("later over"), digest("for ever"), digest("another")} == left
    assert [digest("later over")] == timed_redis.command("ZRANGE", KEY_EXPIRIES, 0, -1)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"{", id="no json"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(msgspec.json.encode(stored_key("other")), id="another's record"),
        pytest.param(
            msgspec.json.encode(stored_key("k", workspace="a}b")), id="workspace"
        ),
        pytest.param(msgspec.json.encode(stored_key("k", plan="")), id="plan"),
        pytest.param(msgspec.json.encode(stored_key("k", scope="a:b")), id="scope"),
        pytest.param(
            msgspec.json.encode(stored_key("k"))[:-1] + b',"only_from":"10.0.0.0/8"}',
            id="a field of tomorrow",
        ),
    ],
)
async def test_a_record_this_version_cannot_read_is_neither_good_nor_absent(
    keys: KeyStore, timed_redis: RedisServer, raw: bytes
) -> None:
    """What it does not understand may be what narrows the key; it can be revoked."""
    timed_redis.command("HSET", KEY_RECORDS, digest("k"), raw)

    with pytest.raises(UnreadableRecord):
        await keys.find(digest("k"))
    assert [None] == [found.key for found in await keys.find_all()]
    await keys.revoke(digest("k"))

    assert await keys.find(digest("k")) is None


async def test_a_hundred_thousand_keys_are_listed_in_pages(
    keys: KeyStore, timed_redis: RedisServer
) -> None:
    """No single command gives Redis work that others would have to wait for."""
    names = [f"key {n}" for n in range(100_000)]
    async with timed_redis.connect() as client:
        for at in range(0, len(names), 10_000):
            batch = map(stored_key, names[at : at + 10_000])
            records: dict[str, bytes] = {
                key.sha256: msgspec.json.encode(key) for key in batch
            }
            await client.hset(KEY_RECORDS, mapping=records)  # type: ignore[arg-type]

    pages = [page async for page in keys.pages()]

    assert {digest(name) for name in names} == {f.sha256 for p in pages for f in p}
    assert max(map(len, pages)) < 2000


async def test_a_prefix_finds_the_keys_that_begin_so(keys: KeyStore) -> None:
    """Each once and in order, so that an ambiguous id can be told."""
    created = [stored_key(f"key {n}") for n in range(300)]
    for key in created:
        await keys.create(key)

    found = await keys.find_all(created[0].sha256[:1])

    expected = sorted(k.sha256 for k in created if k.sha256[0] == created[0].sha256[0])
    assert expected == [each.sha256 for each in found]


async def test_the_keys_live_in_a_cluster_as_well(timed_cluster: RedisCluster) -> None:
    """All of them share a slot, whatever their workspace, so a change stays atomic."""
    async with key_store(timed_cluster.url) as keys:
        await keys.create(stored_key("old", expires_at=NOW + 48 * HOUR))
        new = await keys.rotate(digest("old"), digest("new"), HOUR)
        await keys.revoke(digest("old"))

        left: list[StoredKey | None] = [found.key for found in await keys.find_all()]

    assert [new] == left
