"""Listening to a channel: heard, lost, found again, and told so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from policies.store.store import Store
from tests.redis_fixtures import StartCluster, StartRedis, StartSentinel
from tests.redis_servers import RedisServer
from tests.servers.process import until
from tests.store.conftest import OpenStore, until_gone

CHANNEL = "gw:news"


class Ear:
    """What was heard, in order: `up`, `down` and messages."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @asynccontextmanager
    async def at(self, store: Store, ping_every_s: float = 5.0) -> AsyncIterator[None]:
        async with store.listen(
            CHANNEL,
            on_message=lambda message: self.heard.append(message.decode()),
            on_up=lambda: self.heard.append("up"),
            on_down=lambda: self.heard.append("down"),
            ping_every_s=ping_every_s,
        ):
            await self.until("up")
            yield

    async def until(self, *expected: str) -> None:
        """Wait until exactly this was heard."""
        heard = list(expected)
        await until(lambda: self.heard == heard, f"{heard}, but heard {self.heard}")


async def test_messages_are_heard_in_order(store: Store) -> None:
    """Each message once, as bytes, and none after the end."""
    ear = Ear()
    async with ear.at(store):
        for message in ("one", "two", "three"):
            assert 1 == await store.call("PUBLISH", CHANNEL, message, key=CHANNEL)
        await ear.until("up", "one", "two", "three")

    assert 0 == await store.call("PUBLISH", CHANNEL, "four", key=CHANNEL)
    assert ["up", "one", "two", "three", "down"] == ear.heard


async def test_a_restart_is_noticed_and_survived(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """The loss is told at once, and so is the subscription that follows."""
    server = await start_redis()
    store, ear = to_store(server.url), Ear()
    async with ear.at(store):
        server.kill()
        await ear.until("up", "down")
        await server.start()
        await ear.until("up", "down", "up")
        await store.call("PUBLISH", CHANNEL, "again", key=CHANNEL)
        await ear.until("up", "down", "up", "again")
    await store.aclose()
    await until_gone(server)


async def test_a_silent_server_is_noticed(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A peer that vanished without a word does not leave us deaf in good faith."""
    server = await start_redis()
    ear = Ear()
    async with ear.at(to_store(server.url), ping_every_s=0.05):
        server.freeze()
        await ear.until("up", "down")
        server.thaw()
        await ear.until("up", "down", "up")


async def test_a_long_silence_is_no_loss(
    store: Store, redis_server: RedisServer
) -> None:
    """Answers to our own pings are no messages, and keep the subscription."""
    ear = Ear()
    async with ear.at(store, ping_every_s=0.01):
        before = pings(redis_server)
        await until(lambda: pings(redis_server) >= before + 5, "five pings")
        await store.call("PUBLISH", CHANNEL, "still here", key=CHANNEL)
        await ear.until("up", "still here")


async def test_a_callback_that_fails_does_not_end_the_listening(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in a callback is logged, and the channel is subscribed anew."""
    ear = Ear()

    def fail(message: bytes) -> None:
        raise ValueError(message)

    async with store.listen(
        CHANNEL,
        on_message=fail,
        on_up=lambda: ear.heard.append("up"),
        on_down=lambda: ear.heard.append("down"),
    ):
        await ear.until("up")
        await store.call("PUBLISH", CHANNEL, "bad", key=CHANNEL)
        await ear.until("up", "down", "up")

    assert ["ValueError"] == [
        record.exc_info[0].__name__
        for record in caplog.records
        if record.exc_info and record.exc_info[0]
    ]


async def test_a_channel_is_heard_across_a_cluster(
    start_cluster: StartCluster, to_store: OpenStore
) -> None:
    """Published at any node, heard at whichever the listener is connected to."""
    cluster = await start_cluster()
    store, ear = to_store(cluster.url), Ear()
    async with ear.at(store):
        for number, key in enumerate("abcdef"):
            await store.call("PUBLISH", CHANNEL, number, key=key)
        await until(lambda: len(ear.heard) == 7, "six messages")

    assert set("012345") == set(ear.heard[1:7])


async def test_a_listener_follows_the_master(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """After a fail-over it hears what is published at the new master."""
    watched = await start_sentinel()
    store, ear = to_store(watched.url), Ear()
    async with ear.at(store):
        old = watched.master
        old.kill()
        await watched.until_replaced(old)
        await until(lambda: ear.heard[-1] == "up", "the subscription")
        watched.master.command("PUBLISH", CHANNEL, "new")
        await until(lambda: ear.heard[-1] == "new", "the message")


async def test_a_listener_that_never_gets_through_ends_when_told(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """Leaving the context ends the tries, in the middle of any of them."""
    ear = Ear()
    store = to_store("redis://127.0.0.1:1")
    async with store.listen(
        CHANNEL,
        on_message=lambda _: None,
        on_up=lambda: ear.heard.append("up"),
        on_down=lambda: ear.heard.append("down"),
    ):
        await asyncio.sleep(0)

    assert [] == ear.heard


def pings(server: RedisServer) -> int:
    """How many PINGs the server has answered; asking is none."""
    return int(server.command("INFO", "commandstats")["cmdstat_ping"]["calls"])
