"""Calls to one server: few writes for a tick, each caller its own reply."""

from __future__ import annotations

import asyncio

import pytest

from policies.store.errors import StoreUnavailable
from policies.store.pipe import FLUSHED_AT
from policies.store.store import Store
from tests.redis_servers import RedisServer
from tests.servers.process import until
from tests.store.conftest import COUNT, OpenStore, refusal, until_gone


@pytest.mark.parametrize(
    ("calls", "writes"), [(1, 1), (FLUSHED_AT - 1, 1), (10 * FLUSHED_AT + 1, 11)]
)
async def test_calls_of_one_tick_share_their_writes(
    store: Store, calls: int, writes: int
) -> None:
    """Eighty admissions cost ten system calls, and Redis begins at the first."""
    before = store.flushes_total

    await asyncio.gather(*(store.call("ECHO", n, key="") for n in range(calls)))

    assert writes == store.flushes_total - before


async def test_the_calls_that_open_the_connection_share_a_write(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """Whoever comes while the connection is being made waits for the same one."""
    store = to_store(redis_server.unix_url)

    await asyncio.gather(*(store.call("ECHO", n, key="") for n in range(100)))

    assert 1 == store.flushes_total


async def test_every_caller_gets_its_own_reply(store: Store) -> None:
    """Many batches in flight, and errors among them, never shift replies."""

    async def ask(number: int) -> bool:
        for turn in range(20):
            text = f"{number}.{turn}".encode()
            if (number + turn) % 7 == 0:
                with pytest.raises(StoreUnavailable, match=rf"'{number}-{turn}'"):
                    await store.call(f"{number}-{turn}", key="")
            elif text != await store.call("ECHO", text, key=""):
                return False
        return True

    assert all(await asyncio.gather(*(ask(number) for number in range(50))))


async def test_arguments_and_replies_keep_their_types(store: Store) -> None:
    """Numbers, text and bytes go there, and come back as Redis has them."""
    value = bytes(range(256))
    await store.call("SET", "types:é", value, "PX", 60_000, key="types:é")

    assert value == await store.call("GET", "types:é", key="types:é")
    assert None is await store.call("GET", "types:none", key="types:none")
    assert [b"databases", b"16"] == await store.call(
        "CONFIG", "GET", "databases", key=""
    )


async def test_a_caller_that_leaves_before_the_write_has_asked_nothing(
    store: Store, redis_server: RedisServer
) -> None:
    """A cancelled call that was not sent yet is not sent any more."""
    redis_server.command("DEL", "left")
    staying = asyncio.create_task(store.run(COUNT, ["left"], [1]))
    leaving = asyncio.create_task(store.run(COUNT, ["left"], [100]))
    # Tasks begin in the order of their creation: both have queued when this one runs,
    # before the write of the same tick.
    asyncio.get_running_loop().call_soon(leaving.cancel)

    assert 1 == await staying
    assert await _is_cancelled(leaving)
    assert "1" == redis_server.command("GET", "left")


async def test_a_caller_that_leaves_after_the_write_shifts_no_reply(
    store: Store,
) -> None:
    """The reply of a cancelled call is read and thrown away."""
    before = store.flushes_total
    # While the server sleeps, nobody has a reply.
    asked = [asyncio.create_task(store.call("DEBUG", "SLEEP", "0.1", key=""))]
    asked += [asyncio.create_task(store.call("ECHO", n, key="")) for n in range(1, 10)]
    await until(lambda: store.flushes_total > before, "the write")
    for task in asked[::2]:
        task.cancel()

    replies = await asyncio.gather(*asked, return_exceptions=True)

    assert [b"1", b"3", b"5", b"7", b"9"] == replies[1::2]
    assert b"later" == await store.call("ECHO", "later", key="")


async def test_a_mistake_of_ours_is_no_failure_of_the_store(store: Store) -> None:
    """A wrong type or a script's own error is a bug, which a breaker must not see."""
    await store.call("DEL", "list", key="list")
    await store.call("RPUSH", "list", "x", key="list")

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        await store.run(COUNT, ["list"], [1])


async def test_too_many_waiting_calls_are_refused(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """What waits is bounded: one more is refused at once, and was not executed."""
    store = to_store(redis_server.unix_url, max_waiting=10)
    calls = [asyncio.create_task(store.call("ECHO", n, key="")) for n in range(10)]
    await asyncio.sleep(0)

    refused = await refusal(store.call("ECHO", "more", key=""))

    assert ("overloaded", False) == (refused.reason, refused.is_ambiguous)
    assert 10 == len(await asyncio.gather(*calls))
    assert b"again" == await store.call("ECHO", "again", key="")


async def test_a_closed_store_leaves_nothing(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """Closing ends the connection, tells who waits, and refuses what comes."""
    store = to_store(redis_server.unix_url)
    await store.ping()
    waiting = asyncio.create_task(store.call("BLPOP", "never", 0, key="never"))
    await asyncio.sleep(0)

    await store.aclose()

    assert "closed" == (await refusal(waiting)).reason
    assert "closed" == (await refusal(store.ping())).reason
    await until_gone(redis_server)


async def test_a_store_closed_while_it_connects_leaves_nothing(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """A start that is broken off at any point leaves no connection behind."""
    for turns in range(12):
        store = to_store(redis_server.url)
        waiting = asyncio.create_task(store.ping())
        for _ in range(turns):
            await asyncio.sleep(0)

        await store.aclose()

        await asyncio.wait([waiting])
        assert waiting.exception() is None or "closed" in str(waiting.exception())
    await until_gone(redis_server)


async def _is_cancelled(task: asyncio.Task[object]) -> bool:
    await asyncio.wait([task])
    return task.cancelled()
