"""A store that asks sentinels for the master, and follows it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from policies.store.errors import StoreUnavailable
from policies.store.store import Store
from tests.redis_fixtures import StartSentinel
from tests.store.conftest import COUNT, OpenStore, connections, refusal, until_gone


class Load:
    """Callers that count without pause, and note what went wrong."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.counted = 0
        self.problems: list[StoreUnavailable] = []
        self._news = asyncio.Condition()

    async def go_on(self) -> None:
        while True:
            try:
                await self._store.run(COUNT, ["n"], [1])
            except StoreUnavailable as problem:
                self.problems.append(problem)
                await asyncio.sleep(0.005)
            else:
                self.counted += 1
                async with self._news:
                    self._news.notify_all()

    async def until_counted(self, more: int) -> None:
        """Wait until so many more calls were served."""
        goal = self.counted + more
        async with asyncio.timeout(20), self._news:
            await self._news.wait_for(lambda: self.counted >= goal)


async def test_a_failover_under_load_is_survived(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """
    When the master dies, calls fail in time and go on at the next one, by themselves.
    """
    watched = await start_sentinel()
    store = to_store(watched.url, timeout_s=0.5, connect_timeout_s=0.5)
    load = Load(store)
    callers = [asyncio.create_task(load.go_on()) for _ in range(8)]
    try:
        await load.until_counted(100)
        old = watched.master
        old.kill()
        await watched.until_replaced(old)
        await load.until_counted(100)
    finally:
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)

    # Nothing but StoreUnavailable was raised, or a caller would have ended before.
    assert [True] * 8 == [caller.cancelled() for caller in callers]
    assert 1 == connections(watched.master)


async def test_a_demoted_master_is_left_for_the_new_one(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """READONLY means that the roles were exchanged: at most one call hears of it."""
    watched = await start_sentinel()
    store = to_store(watched.url)
    await store.run(COUNT, ["n"], [1])

    await watched.failover()
    await watched.until_watched()
    # Either the sentinels cut the connection, or the server says that it is no master.
    with suppress(StoreUnavailable):
        await store.run(COUNT, ["n"], [1])

    await store.run(COUNT, ["n"], [1])
    assert 1 == connections(watched.master)


async def test_a_silent_sentinel_is_passed_over(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """Two of three sentinels may be gone or hang; the last one is asked."""
    watched = await start_sentinel()
    watched.sentinels[0].freeze()
    watched.sentinels[1].kill()
    store = to_store(watched.url, connect_timeout_s=1.0)

    assert 1 == await store.run(COUNT, ["n"], [1])

    watched.sentinels[0].thaw()


async def test_sentinels_and_servers_may_have_different_passwords(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """Each is shown its own; a wrong one is told as such, and not shown."""
    watched = await start_sentinel(
        password="first-secret", sentinel_password="other-secret"
    )
    url = watched.url.replace("://", "://:first-secret@")

    store = to_store(f"{url}?sentinel_password=other-secret")
    assert 1 == await store.run(COUNT, ["n"], [1])
    for query in ("", "?sentinel_password=wrong-secret"):
        refused = await refusal(to_store(url + query).ping())
        assert "auth" == refused.reason
        assert "secret" not in str(refused)


async def test_a_user_with_the_least_rights_may_ask_the_sentinels(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """The sentinels have users of their own."""
    watched = await start_sentinel()
    rules = (">pw", "-@all", "+sentinel|masters", "+client|setname")
    for sentinel in watched.sentinels:
        sentinel.command("ACL", "SETUSER", "asker", "on", *rules)
        sentinel.command("ACL", "SETUSER", "default", "-sentinel|masters")
    store = to_store(f"{watched.url}?sentinel_username=asker&sentinel_password=pw")

    assert 1 == await store.run(COUNT, ["n"], [1])
    assert "refused" == (await refusal(to_store(watched.url).ping())).reason


async def test_a_closed_store_leaves_nothing_at_the_sentinels(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """The connections that asked for the master are closed as well."""
    watched = await start_sentinel()
    store = to_store(watched.url)
    await store.ping()

    await store.aclose()

    for server in (*watched.sentinels, *watched.servers):
        await until_gone(server)


async def test_an_unknown_master_is_a_lost_connection(
    start_sentinel: StartSentinel, to_store: OpenStore
) -> None:
    """The message names the master that nobody knows."""
    watched = await start_sentinel()
    refused = await refusal(to_store(watched.url + "-not").ping())

    assert "connection" == refused.reason
    assert "gateway-test-not" in refused.detail
