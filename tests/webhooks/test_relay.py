"""An event is told to each receiver at least once, and to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

import pytest
from msgspec import structs

from gateway.background.working import Worker
from gateway.webhooks.backoff import next_attempt_s
from gateway.webhooks.outbox import DEAD_QUEUE, ID_PREFIX, KIND, QUEUE, made_ms
from gateway.webhooks.registrations import Registrations
from gateway.webhooks.relay import to_event_id
from gateway.webhooks.signing import new_secret
from gateway.webhooks.targets import NOTHING_ALLOWED
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobsUnavailable, RecordName, new_record_id
from tests.webhooks.conftest import NOW_S
from tests.webhooks.hooks import DAY_S, SECRET, Hub, hooked, registered

PATIENCE_S: Final = 10


class CutOffJobs(MemoryJobs):
    """A store that is away from its n-th change on, until somebody mends it."""

    changes_left: int = 1000

    def _change(self) -> None:
        self.changes_left -= 1
        if self.changes_left < 0:
            raise JobsUnavailable

    async def collect(
        self, workspace: str, collection: str, entries: Mapping[str, bytes], ttl_ms: int
    ) -> int:
        self._change()
        return await super().collect(workspace, collection, entries, ttl_ms)

    async def create(self, name: RecordName, body: bytes, ttl_ms: int) -> bool:
        self._change()
        return await super().create(name, body, ttl_ms)

    async def schedule(self, queue: str, item: str, *, in_ms: int = 0) -> None:
        self._change()
        await super().schedule(queue, item, in_ms=in_ms)


async def test_a_receiver_gets_openais_form_signed_by_standard_webhooks() -> None:
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish("batch_1_completed")
        await hub.work()

    (told,) = receiver.told
    delivery = await hub.delivery()
    assert told.headers["webhook-id"] == "evt_batch_1_completed"
    assert told.headers["content-type"] == "application/json"
    assert told.event == {
        "id": "evt_batch_1_completed",
        "object": "event",
        "type": "batch.completed",
        "created_at": int(NOW_S),
        "data": {"id": "b"},
    }
    assert ("delivered", "200", 1) == (
        delivery.state,
        delivery.outcome,
        delivery.attempts,
    )
    assert hub.counted == ["delivered"]


async def test_each_attempt_is_signed_anew_with_all_secrets_in_force() -> None:
    """By the receiver's clock, which only takes what was signed lately."""
    async with hooked(503, 200) as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        await hub.work()
        both = (new_secret(), SECRET)
        rotated = structs.replace(registered(receiver.url), secrets=both)
        hub.registrations = Registrations([rotated])
        await hub.work(after_s=10)

    first, second = receiver.told
    assert first.body == second.body
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    times = [int(each.headers["webhook-timestamp"]) for each in receiver.told]
    assert times == [int(NOW_S), int(NOW_S) + 10]
    assert len(second.headers["webhook-signature"].split()) == 2


async def test_who_registered_for_other_events_hears_nothing() -> None:
    async with hooked() as receiver:
        others = [
            registered(receiver.url, "acme", "training.*"),
            registered(receiver.url, "umbrella"),
            registered(receiver.url, "*"),
        ]
        hub = Hub(others)
        await hub.publish()
        assert await hub.work() == 0

    assert receiver.told == []
    assert await hub.deliveries() == []


async def test_an_event_published_twice_is_delivered_once_to_each() -> None:
    """Before the delivery, after it, and days after it was forgotten."""
    async with hooked() as one, hooked() as another:
        hub = Hub([registered(one.url), registered(another.url)])
        await hub.publish()
        await hub.publish()
        await hub.work()
        for days in (0, 2, 2):
            hub.now_s += days * DAY_S
            await hub.publish()
            await hub.work()

    assert (len(one.told), len(another.told)) == (1, 1)


async def test_a_receiver_registered_later_is_told_by_a_repetition() -> None:
    async with hooked() as one, hooked() as another:
        hub = Hub([registered(one.url)])
        await hub.publish()
        await hub.work()
        both = [registered(one.url), registered(another.url)]
        hub.registrations = Registrations(both)
        await hub.publish()
        await hub.work()

    assert (len(one.told), len(another.told)) == (1, 1)


@pytest.mark.parametrize("changes", range(4))
async def test_a_publication_cut_off_anywhere_is_made_whole_by_the_next(
    changes: int,
) -> None:
    """Whoever published did not go on, and publishes again."""
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)], jobs=CutOffJobs)
        assert isinstance(hub.jobs, CutOffJobs)
        hub.jobs.changes_left = changes
        with pytest.raises(JobsUnavailable):
            await hub.publish()
        hub.jobs.changes_left = 1000
        await hub.publish()
        await hub.work()
        await hub.work()

    assert len(receiver.told) == 1


async def test_a_receiver_that_comes_back_is_told_what_it_missed() -> None:
    async with hooked(503, 500, 204) as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        await hub.work()
        waiting = await hub.delivery()
        assert (waiting.state, waiting.outcome) == ("pending", "503")
        assert await hub.work(after_s=9.9) == 0
        await hub.work(after_s=0.1)
        await hub.work(after_s=10)

    assert len(receiver.told) == 3
    assert (await hub.delivery()).state == "delivered"
    assert hub.counted == ["retried", "retried", "delivered"]


async def test_a_repetition_does_not_hurry_an_attempt_that_was_put_off() -> None:
    async with hooked(503, 200) as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        await hub.work()
        await hub.publish()
        await hub.work()
        assert len(receiver.told) == 1
        await hub.work(after_s=10)

    assert len(receiver.told) == 2


async def test_a_receiver_that_never_comes_back_leaves_a_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By the schedule in force, within two days; kept for thirty; told in the log."""
    async with hooked(500) as receiver:
        hub = Hub([registered(receiver.url)], next_attempt_s=next_attempt_s)
        await hub.publish()
        await hub.work()
        while (await hub.delivery()).state == "pending":
            await hub.work(after_s=300)

    dead = await hub.delivery()
    assert (dead.state, dead.outcome, dead.attempts) == ("dead", "500", 9)
    assert hub.now_s - NOW_S < 2 * DAY_S
    assert hub.counted == ["retried"] * 8 + ["dead"]
    (line,) = [each for each in caplog.records if "given up" in each.getMessage()]
    assert "its-password" not in str(vars(line))
    hub.now_s += 29 * DAY_S
    assert (await hub.delivery()).id == dead.id
    hub.now_s += 2 * DAY_S
    assert await hub.deliveries() == []


async def test_what_was_delivered_is_kept_for_three_days() -> None:
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        await hub.work()

    hub.now_s += 2.9 * DAY_S
    assert len(await hub.deliveries()) == 1
    hub.now_s += 0.2 * DAY_S
    assert await hub.deliveries() == []


async def test_a_receiver_that_is_gone_for_good_is_not_asked_again() -> None:
    async with hooked(410) as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        await hub.work()
        assert await hub.work(after_s=DAY_S) == 0

    assert len(receiver.told) == 1
    assert hub.counted == ["dead"]


async def test_a_receiver_that_is_registered_no_more_is_not_asked() -> None:
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        hub.registrations = Registrations()
        await hub.work()
        assert (await hub.delivery()).state == "pending"
        await hub.work(after_s=600)

    assert receiver.told == []
    dead = await hub.delivery()
    assert (dead.state, dead.outcome) == ("dead", "not_registered")


async def test_what_was_for_a_mended_url_is_told_to_the_new_one() -> None:
    """Once, and to nobody who was told already."""
    async with hooked(500) as wrong, hooked() as right, hooked() as other:
        hub = Hub([registered(wrong.url), registered(other.url)])
        await hub.publish()
        await hub.work()
        mended = [registered(right.url), registered(other.url)]
        hub.registrations = Registrations(mended)
        for _ in range(3):
            await hub.work(after_s=600)
        (dead,) = [
            h
            async for h in hub.outbox.all_of("acme")
            if h.delivery.outcome == "not_registered"
        ]
        await hub.outbox.replay(dead)
        for _ in range(2):
            await hub.work(after_s=60)

    assert (1, 1, 1) == (len(wrong.told), len(right.told), len(other.told))
    assert wrong.told[0].body == right.told[0].body


async def test_a_replica_that_does_not_know_a_receiver_yet_buries_nothing() -> None:
    """Another has read the changed file before it, and published."""
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        known, hub.registrations = hub.registrations, Registrations()
        await hub.work()
        hub.registrations = known
        await hub.work(after_s=5)

    assert hub.counted == ["delivered"]


async def test_a_target_in_our_own_network_is_given_up_without_a_connection() -> None:
    """A name that leads to loopback, and a URL that nobody allowed."""

    async def lookup(host: str, port: int) -> Sequence[str]:
        del host, port
        return ["127.0.0.1"]

    async with hooked() as receiver:
        urls = (receiver.url, f"https://hooks.example.com:{receiver.port}/x")
        hub = Hub(
            [registered(url) for url in (*urls, "https://hooks.example.com/y")],
            allowed=NOTHING_ALLOWED,
            lookup=lookup,
        )
        await hub.publish()
        await hub.work()

    assert receiver.told == []
    assert {each.state for each in await hub.deliveries()} == {"dead"}
    assert hub.counted == ["refused_target"] * 3


async def test_a_dead_letter_is_replayed_under_the_same_id() -> None:
    async with hooked(410, 200) as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        await hub.work()
        (held,) = [each async for each in hub.outbox.all_of("acme")]
        await hub.outbox.replay(held)
        await hub.work()
        # What was scheduled in case the replay was cut off finds nothing to do.
        await hub.work(after_s=60)

    assert len({each.headers["webhook-id"] for each in receiver.told}) == 1
    assert len(receiver.told) == 2
    assert (await hub.delivery()).state == "delivered"


async def test_a_replay_during_an_attempt_is_what_holds() -> None:
    """The attempt's note comes too late, and the receiver is told once more."""
    async with hooked(500, 200) as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        receiver.answers.clear()
        working = asyncio.create_task(hub.work())
        async with asyncio.timeout(PATIENCE_S):
            await receiver.was_told.wait()
        (held,) = [each async for each in hub.outbox.all_of("acme")]
        await hub.outbox.replay(held)
        receiver.answers.set()
        await working
        await hub.work()

    delivery = await hub.delivery()
    assert (delivery.state, delivery.attempts) == ("delivered", 1)


async def test_a_worker_killed_in_an_attempt_is_followed_by_another() -> None:
    """Nobody knows whether the receiver took it: it is told again, by the same id."""
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()
        receiver.answers.clear()
        async with asyncio.timeout(PATIENCE_S):
            await _run_until(hub, "first", receiver.was_told)
            receiver.was_told.clear()
            receiver.answers.set()
            await _run_until(hub, "second", hub.was_counted)

    first, second = receiver.told
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
    assert hub.counted == ["delivered"]


async def _run_until(hub: Hub, owner: str, happens: asyncio.Event) -> None:
    worker = Worker(hub.jobs, QUEUE, owner, hub.relay.drive, idle_s=0.01)
    task = asyncio.create_task(worker.run())
    await happens.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_an_id_says_when_it_was_made() -> None:
    """Whoever made it, in whatever form the store's ids are."""
    assert made_ms(new_record_id(ID_PREFIX, 1_795_780_800_123)) == 1_795_780_800_123


def test_event_ids_are_of_openais_form_whatever_they_were() -> None:
    assert to_event_id("evt_5") == "evt_5"
    assert to_event_id("5") == "evt_5"
    assert to_event_id("x" * 128) == to_event_id("x" * 128)
    assert len(to_event_id("x" * 128)) <= 128
    assert to_event_id("a.b") == to_event_id("a.b") != to_event_id("a.c")
    assert "." not in to_event_id("a.b")


async def test_the_store_holds_neither_secrets_nor_urls() -> None:
    """Whoever reads it can post to nobody in our name."""
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        await hub.publish()

        (kept,) = await hub.jobs.page("acme", KIND)
        assert b"its-password" not in kept.body
        assert SECRET.reveal().encode() not in kept.body
        assert (await hub.delivery()).receiver == f"http://127.0.0.1:{receiver.port}"


async def test_dead_letters_are_counted_until_they_are_replayed_or_forgotten() -> None:
    """By an item of work each, so that nobody has to look at all deliveries."""
    async with hooked(500) as receiver:
        hub = Hub([registered(receiver.url)], next_attempt_s=lambda *_: None)
        for event_id in ("evt_1", "evt_2"):
            await hub.publish(event_id)
        await hub.work()
        assert await hub.dead_letters() == 2

        _, first = [held async for held in hub.outbox.all_of("acme")]
        await hub.outbox.replay(first)
        assert await hub.dead_letters() == 1
        await hub.work()
        assert await hub.dead_letters() == 2

    assert await hub.dead_letters(after_s=29 * DAY_S) == 2
    assert await hub.dead_letters(after_s=2 * DAY_S) == 0


async def test_who_dies_before_a_letter_is_dead_leaves_none_too_many() -> None:
    """It is scheduled first, and found to be alive."""
    hub = Hub([registered("http://127.0.0.1:1/hook")])
    await hub.publish()
    delivery = await hub.delivery()

    item = f"{delivery.workspace} {delivery.id}"
    await hub.jobs.schedule(DEAD_QUEUE, item, in_ms=1000)

    assert await hub.dead_letters() == 1
    assert await hub.dead_letters(after_s=1) == 0
