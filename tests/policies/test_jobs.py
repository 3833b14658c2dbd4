"""The port of long jobs, in memory, in one Redis and in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import pytest

from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import (
    JobStore,
    JobsUnavailable,
    RecordName,
    Standing,
    new_record_id,
)
from policies.jobs.redis_jobs import RedisJobs
from policies.store.store import open_store
from tests.policies.conftest import PATIENCE_S

DAY_MS: Final = 86_400_000
LEASE_MS: Final = 10_000
QUEUE: Final = "batches"

Advance = Callable[[int], None]


def named(record_id: str, workspace: str = "acme") -> RecordName:
    return RecordName(workspace, "file", record_id)


@pytest.fixture
async def jobs(
    store_url: str | None, clock: Callable[[], int]
) -> AsyncIterator[JobStore]:
    if store_url is None:
        yield MemoryJobs(lambda: clock() // 1000)
        return
    store = open_store(
        store_url,
        timeout_s=PATIENCE_S,
        connect_timeout_s=PATIENCE_S,
        client_name="test",
    )
    yield RedisJobs(store)
    await store.aclose()


class TestRecords:
    """They change only as they were read, and end."""

    async def test_what_is_kept_is_read(self, jobs: JobStore) -> None:
        assert await jobs.create(named("a"), b"one", DAY_MS)
        assert not await jobs.create(named("a"), b"two", DAY_MS)

        kept = await jobs.read(named("a"))

        assert kept is not None
        assert (b"one", "a") == (kept.body, kept.record_id)
        assert await jobs.read(named("a", "other")) is None

    async def test_of_two_writers_one_is_late(self, jobs: JobStore) -> None:
        await jobs.create(named("a"), b"one", DAY_MS)
        kept = await jobs.read(named("a"))
        assert kept is not None

        writers = [
            jobs.replace(named("a"), each, kept.version) for each in (b"2", b"3")
        ]

        assert [False, True] == sorted(await asyncio.gather(*writers))
        again = await jobs.read(named("a"))
        assert again is not None
        assert again.body in {b"2", b"3"}
        assert await jobs.replace(named("a"), b"4", again.version)

    async def test_what_is_gone_is_not_changed(self, jobs: JobStore) -> None:
        await jobs.create(named("a"), b"one", DAY_MS)
        assert await jobs.delete(named("a"))
        assert not await jobs.delete(named("a"))
        assert not await jobs.replace(named("a"), b"two", 1)
        assert await jobs.read(named("a")) is None
        assert [] == list(await jobs.page("acme", "file"))

    async def test_a_record_ends(self, jobs: JobStore, advance: Advance) -> None:
        await jobs.create(named("a"), b"one", 1000)
        await jobs.create(named("b"), b"two", DAY_MS)
        kept = await jobs.read(named("a"))
        assert kept is not None
        await jobs.replace(named("a"), b"new", kept.version)

        advance(1001)

        assert await jobs.read(named("a")) is None
        assert ["b"] == [each.record_id for each in await jobs.page("acme", "file")]

    async def test_a_record_that_is_changed_may_be_given_another_end(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        """Sooner for what is over, later for what somebody has to look at."""
        for record_id, ttl_ms in (("long", 2000), ("short", 500)):
            await jobs.create(named(record_id), b"", 1000)
            assert await jobs.replace(named(record_id), b"", 1, ttl_ms)

        advance(501)
        assert await jobs.read(named("short")) is None
        advance(1000)
        assert ["long"] == [each.record_id for each in await jobs.page("acme", "file")]
        advance(500)
        assert await jobs.read(named("long")) is None

    async def test_what_has_ended_is_forgotten_though_nobody_lists_it(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        """Or a workspace that always makes new ones would be kept for ever."""
        for record_id in "abc":
            await jobs.create(named(record_id), b"", 1000)
        assert 3 == await jobs.count("acme", "file")

        advance(1001)
        await jobs.create(named("d"), b"", DAY_MS)
        await jobs.create(named("e"), b"", DAY_MS)

        assert 2 == await jobs.count("acme", "file")
        assert 0 == await jobs.count("acme", "batch")

    async def test_lists_go_by_ids_and_in_pages(self, jobs: JobStore) -> None:
        for record_id in "cabed":
            await jobs.create(named(record_id), record_id.encode(), DAY_MS)
        await jobs.create(named("x", "other"), b"", DAY_MS)

        async def listed(**bounds: object) -> str:
            found = await jobs.page("acme", "file", **bounds)  # type: ignore[arg-type]
            return "".join(each.record_id for each in found)

        assert "edcba" == await listed()
        assert "ed" == await listed(limit=2)
        assert "cb" == await listed(limit=2, after="d")
        assert "" == await listed(after="a")
        assert "abcde" == await listed(newest_first=False)
        assert "cde" == await listed(newest_first=False, after="b")
        # Whoever deletes what a page ended with does not lose the next page.
        await jobs.delete(named("d"))
        assert "cba" == await listed(after="d")

    async def test_long_lists_are_read_in_pieces(self, jobs: JobStore) -> None:
        names = [named(f"{number:04}") for number in range(250)]
        await asyncio.gather(*(jobs.create(each, b"x", DAY_MS) for each in names))

        found = await jobs.page("acme", "file", limit=230, newest_first=False)

        assert [each.record_id for each in names[:230]] == [
            each.record_id for each in found
        ]

    def test_ids_sort_by_their_time(self) -> None:
        assert new_record_id("file-", 1_000) < new_record_id("file-", 2_000)
        assert new_record_id("file-", 1_000) != new_record_id("file-", 1_000)


class TestCollections:
    """What comes twice counts once."""

    async def test_the_first_of_a_name_stays(self, jobs: JobStore) -> None:
        first = {"1": b"a", "2": b"b"}
        assert 2 == await jobs.collect("acme", "c", first, DAY_MS)
        assert 1 == await jobs.collect("acme", "c", {"2": b"x", "3": b"c"}, DAY_MS)
        assert {"1": b"a", "2": b"b", "3": b"c"} == await jobs.collected("acme", "c")
        assert {} == await jobs.collected("other", "c")

    async def test_many_bringing_the_same_add_it_once(self, jobs: JobStore) -> None:
        brought = [jobs.collect("acme", "c", {"1": b"a"}, DAY_MS) for _ in range(10)]
        assert 1 == sum(await asyncio.gather(*brought))

    async def test_a_collection_ends(self, jobs: JobStore, advance: Advance) -> None:
        await jobs.collect("acme", "c", {"1": b"a"}, 1000)
        await jobs.collect("acme", "d", {"1": b"a"}, DAY_MS)
        advance(1001)
        assert {} == await jobs.collected("acme", "c")
        await jobs.discard("acme", "d")
        assert {} == await jobs.collected("acme", "d")
        await jobs.discard("acme", "never")


async def claimed(jobs: JobStore, owner: str, most: int = 10) -> list[str]:
    found = await jobs.claim(QUEUE, owner, lease_ms=LEASE_MS, most=most)
    return list(found)


class TestWork:
    """Exactly one holds an item, and somebody always gets it in the end."""

    async def test_one_of_many_gets_it(self, jobs: JobStore) -> None:
        await jobs.schedule(QUEUE, "a")
        owners = [claimed(jobs, str(number)) for number in range(10)]
        assert [["a"]] == [each for each in await asyncio.gather(*owners) if each]

    async def test_it_comes_when_it_is_due(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        await jobs.schedule(QUEUE, "later", in_ms=5000)
        await jobs.schedule(QUEUE, "now")
        assert ["now"] == await claimed(jobs, "me")
        advance(5000)
        assert ["later"] == await claimed(jobs, "me")

    async def test_the_sooner_of_two_times_counts(self, jobs: JobStore) -> None:
        await jobs.schedule(QUEUE, "a", in_ms=5000)
        await jobs.schedule(QUEUE, "a")
        await jobs.schedule(QUEUE, "a", in_ms=9000)
        assert ["a"] == await claimed(jobs, "me")

    async def test_no_more_than_was_asked_for(self, jobs: JobStore) -> None:
        for item in "abc":
            await jobs.schedule(QUEUE, item)
        assert 2 == len(await claimed(jobs, "me", most=2))
        assert 1 == len(await claimed(jobs, "me", most=2))

    async def test_who_dies_is_followed_by_another(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "dead")
        advance(LEASE_MS - 1)
        assert [] == await claimed(jobs, "heir")
        advance(1)
        assert ["a"] == await claimed(jobs, "heir")
        assert not await jobs.renew(QUEUE, "a", "dead", lease_ms=LEASE_MS)
        assert not await jobs.put_off(QUEUE, "a", "dead", in_ms=0)
        assert not await jobs.finish(QUEUE, "a", "dead")
        assert await jobs.renew(QUEUE, "a", "heir", lease_ms=LEASE_MS)

    async def test_who_renews_keeps_it(self, jobs: JobStore, advance: Advance) -> None:
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "me")
        for _ in range(3):
            advance(LEASE_MS - 1)
            assert await jobs.renew(QUEUE, "a", "me", lease_ms=LEASE_MS)
            assert [] == await claimed(jobs, "you")

    async def test_what_is_put_off_comes_again(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "me")
        assert await jobs.put_off(QUEUE, "a", "me", in_ms=1000)
        assert not await jobs.renew(QUEUE, "a", "me", lease_ms=LEASE_MS)
        assert [] == await claimed(jobs, "you")
        advance(1000)
        assert ["a"] == await claimed(jobs, "you")

    async def test_what_happens_meanwhile_is_not_missed(self, jobs: JobStore) -> None:
        """It may have happened right after the owner looked."""
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "me")
        await jobs.schedule(QUEUE, "a")
        assert [] == await claimed(jobs, "you")
        assert await jobs.put_off(QUEUE, "a", "me", in_ms=60_000)
        assert ["a"] == await claimed(jobs, "you")
        assert await jobs.put_off(QUEUE, "a", "you", in_ms=60_000)
        assert [] == await claimed(jobs, "me")

    async def test_what_is_finished_is_nobodys(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "me")
        assert await jobs.finish(QUEUE, "a", "me")
        advance(LEASE_MS)
        assert [] == await claimed(jobs, "you")
        assert not await jobs.finish(QUEUE, "a", "me")

    async def test_what_happens_at_its_end_is_not_missed(self, jobs: JobStore) -> None:
        """It is for whoever looks next to find that there is nothing more to do."""
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "me")
        await jobs.schedule(QUEUE, "a")
        assert await jobs.finish(QUEUE, "a", "me")
        assert ["a"] == await claimed(jobs, "you")
        assert await jobs.finish(QUEUE, "a", "you")
        assert [] == await claimed(jobs, "me")


class TestStanding:
    """How much work there is, and how late it is, for whoever watches."""

    async def test_nothing_is_not_late(self, jobs: JobStore) -> None:
        assert Standing(0, 0, 0) == await jobs.standing(QUEUE)
        assert [] == list(await jobs.scheduled(QUEUE, most=10))

    async def test_what_nobody_takes_gets_late(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        await jobs.schedule(QUEUE, "later", in_ms=5000)
        await jobs.schedule(QUEUE, "now")
        advance(3000)
        assert Standing(2, 1, 3000) == await jobs.standing(QUEUE)
        advance(4000)
        assert Standing(2, 2, 7000) == await jobs.standing(QUEUE)

    async def test_what_somebody_holds_is_not_due(
        self, jobs: JobStore, advance: Advance
    ) -> None:
        """Until its lease has run out: then its owner is late, or dead."""
        await jobs.schedule(QUEUE, "a")
        await claimed(jobs, "me")
        assert Standing(1, 0, 0) == await jobs.standing(QUEUE)
        advance(LEASE_MS + 500)
        assert Standing(1, 1, 500) == await jobs.standing(QUEUE)
        await claimed(jobs, "heir")
        await jobs.finish(QUEUE, "a", "heir")
        assert Standing(0, 0, 0) == await jobs.standing(QUEUE)

    async def test_items_are_listed_as_they_are_due(self, jobs: JobStore) -> None:
        for item, in_ms in (("c", 3000), ("a", 1000), ("b", 2000)):
            await jobs.schedule(QUEUE, item, in_ms=in_ms)
        assert ["a", "b", "c"] == list(await jobs.scheduled(QUEUE, most=10))
        assert ["a", "b"] == list(await jobs.scheduled(QUEUE, most=2))


async def test_a_store_that_is_away_says_so() -> None:
    """In its own word: nobody above knows Redis' errors."""
    store = open_store(
        "redis://127.0.0.1:1", timeout_s=0.1, connect_timeout_s=0.1, client_name="test"
    )
    with pytest.raises(JobsUnavailable):
        await RedisJobs(store).read(named("a"))
    await store.aclose()
