"""A receiver that does not answer holds up nobody but itself."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from gateway.background.working import Worker
from gateway.webhooks.outbox import QUEUE
from gateway.webhooks.places import LEAST_WAIT_MS, MAX_TOGETHER, Places
from tests.webhooks.hooks import Hub, hooked, registered
from tests.webhooks.test_relay import PATIENCE_S


def test_the_wait_for_a_place_grows_with_the_slowest_attempt() -> None:
    places = Places()
    with ExitStack() as held:
        for now_ms in range(MAX_TOGETHER):
            assert places.wait_ms("one", 5_000) == 0
            held.enter_context(places.taken("one", now_ms))
        assert places.wait_ms("one", 10) == LEAST_WAIT_MS
        assert places.wait_ms("one", 5_000) == 5_000
        assert places.wait_ms("another", 5_000) == 0
    assert places.wait_ms("one", 5_000) == 0


async def test_a_receiver_that_does_not_answer_holds_nobody_up() -> None:
    """However much is due to it, others are told beside it."""
    together = 2 * MAX_TOGETHER
    async with hooked() as dead, hooked() as alive:
        hub = Hub([registered(dead.url), registered(alive.url, "umbrella")])
        dead.answers.clear()
        for number in range(together):
            await hub.publish(f"evt_{number}")
        worker = Worker(
            hub.jobs, QUEUE, "one", hub.relay.drive, idle_s=0.01, together=together
        )
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            working = group.create_task(worker.run())
            await dead.was_told.wait()
            await hub.publish("evt_other", "umbrella")
            await alive.was_told.wait()
            assert len(dead.told) <= MAX_TOGETHER
            working.cancel()


async def test_what_had_no_place_is_told_when_there_is_one() -> None:
    async with hooked() as receiver:
        hub = Hub([registered(receiver.url)])
        receiver.answers.clear()
        for number in range(MAX_TOGETHER + 2):
            await hub.publish(f"evt_{number}")
        items = await hub.jobs.claim(QUEUE, "o", lease_ms=1000, most=100)
        driving = [asyncio.create_task(hub.relay.drive(item)) for item in items]
        async with asyncio.timeout(PATIENCE_S):
            waits_ms = [await task for task in driving[MAX_TOGETHER:]]
        receiver.answers.set()
        await asyncio.gather(*driving)
        assert all(wait_ms and wait_ms < 1000 for wait_ms in waits_ms)
        await hub.work(after_s=1)

    assert hub.counted == ["delivered"] * (MAX_TOGETHER + 2)
