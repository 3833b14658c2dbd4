"""Redis in trouble: every call ends in time, and the store finds back by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable

import pytest

from policies.store.errors import (
    Address,
    Redirected,
    ScriptMissing,
    StoreUnavailable,
    to_error,
)
from policies.store.scripts import to_script
from tests.redis_fixtures import StartRedis
from tests.redis_servers import RedisServer
from tests.servers.process import until
from tests.store.conftest import (
    COUNT,
    OpenStore,
    connections,
    refusal,
    until_gone,
    until_served,
)

TIMEOUT_S = 0.05
# What a busy machine may add to a time-out in a test; in production it is 10 ms.
LATENESS_S = 0.1


async def test_a_frozen_server_costs_no_caller_more_than_the_timeout(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A Redis that accepts and never answers holds up nobody, however many ask."""
    server = await start_redis()
    store = to_store(server.unix_url, timeout_s=TIMEOUT_S)
    await until_served(store)
    server.freeze()

    for is_ambiguous in (True, False):
        # As late as this machine makes anybody who waits for as long.
        waiting = asyncio.create_task(timed(asyncio.sleep(TIMEOUT_S)))
        started_s = time.monotonic()
        refused = await asyncio.gather(
            *(refusal(store.run(COUNT, ["n"], [1])) for _ in range(20))
        )
        took_s = time.monotonic() - started_s

        assert {("timeout", is_ambiguous)} == {
            (each.reason, each.is_ambiguous) for each in refused
        }
        assert TIMEOUT_S <= took_s < await waiting + LATENESS_S


async def timed(waiting: Awaitable[None]) -> float:
    """How long it took."""
    started_s = time.monotonic()
    await waiting
    return time.monotonic() - started_s


async def test_calls_that_follow_each_other_into_a_freeze_are_each_in_time(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """One connection's end ends the wait of all who were on it."""
    server = await start_redis()
    store = to_store(server.unix_url, timeout_s=0.2)
    await until_served(store)
    server.freeze()

    async def take_s() -> float:
        started_s = time.monotonic()
        await refusal(store.ping())
        return time.monotonic() - started_s

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(take_s())]
        for _ in range(20):
            await asyncio.wait(tasks[-1:], timeout=0.005)
            tasks.append(group.create_task(take_s()))

    assert max(task.result() for task in tasks) < 0.2 + LATENESS_S


async def test_a_thawed_server_is_served_again(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """The reply that comes late meets nobody; the next call gets its own."""
    server = await start_redis()
    store = to_store(server.unix_url, timeout_s=TIMEOUT_S)
    await until_served(store)
    server.freeze()
    await refusal(store.call("ECHO", "lost", key=""))

    server.thaw()
    await until_served(store)

    assert b"found" == await store.call("ECHO", "found", key="")
    await until(lambda: connections(server) == 1, "the old connection to be gone")


async def test_callers_that_all_left_do_not_hide_a_dead_connection(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """Nobody waits any more, and yet the silent connection is given up in time."""
    server = await start_redis()
    store = to_store(server.unix_url, timeout_s=0.5)
    await store.ping()
    server.freeze()
    leaving = asyncio.create_task(store.ping())
    await asyncio.wait([leaving], timeout=0.3)
    leaving.cancel()
    started_s = time.monotonic()

    # Lost with the one before it, 0.2 s from now, and not 0.5 s.
    refused = await refusal(store.ping())

    assert ("timeout", True) == (refused.reason, refused.is_ambiguous)
    assert time.monotonic() - started_s < 0.2 + LATENESS_S


@pytest.mark.parametrize("is_written", [True, False])
async def test_a_stalled_event_loop_is_not_taken_for_a_dead_server(
    start_redis: StartRedis, to_store: OpenStore, is_written: bool
) -> None:
    """Our own loop stood still for longer than the time-out; Redis is not to blame."""
    server = await start_redis()
    store = to_store(server.unix_url, timeout_s=TIMEOUT_S)
    await until_served(store)
    before = store.flushes_total
    # What the stall kept from being sent takes its time once it is.
    asked = asyncio.create_task(store.call("DEBUG", "SLEEP", "0.02", key=""))
    if is_written:
        await until(lambda: store.flushes_total > before, "the write")
    else:
        await asyncio.sleep(0)

    _stand_still(4 * TIMEOUT_S)

    assert b"OK" == await asked


async def test_a_killed_server_is_noticed_and_missed_until_it_is_back(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """Pending calls hear of it at once, later ones too, and then they are served."""
    server = await start_redis()
    store = to_store(server.url)
    await store.ping()
    waiting = asyncio.create_task(store.call("BLPOP", "never", 0, key="never"))
    await asyncio.wait([waiting], timeout=0.02)

    server.kill()

    lost = await refusal(waiting)
    assert ("connection", True) == (lost.reason, lost.is_ambiguous)
    refused = await refusal(store.ping())
    assert ("connection", False) == (refused.reason, refused.is_ambiguous)
    await server.start()
    assert 1 == await store.run(COUNT, ["n"], [1])


async def test_a_restart_between_two_calls_is_not_seen(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A connection that ended while idle is made anew, script and all."""
    server = await start_redis()
    store = to_store(server.url)
    await store.run(COUNT, ["n"], [1])

    await server.restart()
    await until(lambda: connections(server) == 0, "the old server to be gone")

    assert 1 == await store.run(COUNT, ["n"], [1])


async def test_a_connection_goes_on_being_made_when_its_caller_gave_up(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A connect that is slower than a call serves the calls after it."""
    server = await start_redis()
    store = to_store(server.unix_url, timeout_s=TIMEOUT_S, connect_timeout_s=5.0)
    server.freeze()

    refused = await refusal(store.ping())
    server.thaw()

    assert ("timeout", False) == (refused.reason, refused.is_ambiguous)
    await until(lambda: connections(server) == 1, "the connection")
    await until_served(store)
    assert 1 == connections(server)


async def test_a_call_late_because_of_its_connect_does_not_cost_the_connection(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """It gets what was left of its time-out; the server was not silent for one."""
    server = await start_redis()
    other = to_store(server.unix_url)
    stats = await other.call("INFO", "stats", key="")
    received = int(stats.partition(b"total_connections_received:")[2].split()[0])
    before = other.flushes_total
    sleeping = asyncio.create_task(other.call("DEBUG", "SLEEP", "0.3", key=""))
    await until(lambda: other.flushes_total > before, "the server to sleep")
    store = to_store(server.unix_url, timeout_s=0.5)

    refused = await refusal(store.call("DEBUG", "SLEEP", "0.3", key=""))

    assert ("timeout", True) == (refused.reason, refused.is_ambiguous)
    assert b"same" == await store.call("ECHO", "same", key="")
    await sleeping
    stats = await other.call("INFO", "stats", key="")
    assert b"total_connections_received:%d" % (received + 1) in stats.split()


async def test_a_caller_that_leaves_a_dead_server_leaves_nothing(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """Cancelled while it waits for a connection or a reply, it is gone."""
    server = await start_redis()
    store = to_store(server.unix_url)
    await store.ping()
    server.freeze()
    calls = [asyncio.create_task(store.run(COUNT, ["n"], [1])) for _ in range(50)]
    await asyncio.wait(calls, timeout=0.02)

    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    await store.aclose()
    server.thaw()

    await until_gone(server)


REFUSALS = [
    pytest.param([("REPLICAOF", "127.0.0.1", "1")], "replica", id="READONLY"),
    pytest.param(
        [
            ("CONFIG", "SET", "replica-serve-stale-data", "no"),
            ("REPLICAOF", "127.0.0.1", "1"),
        ],
        "replica",
        id="MASTERDOWN",
    ),
    pytest.param([("CONFIG", "SET", "maxmemory", "1")], "memory", id="OOM"),
    pytest.param(
        [("CONFIG", "SET", "min-replicas-to-write", "1")], "refused", id="NOREPLICAS"
    ),
    pytest.param(
        [("ACL", "SETUSER", "default", "-evalsha")], "refused", id="NOPERM itself"
    ),
]


@pytest.mark.parametrize(("commands", "reason"), REFUSALS)
async def test_a_server_that_cannot_do_it_says_why(
    start_redis: StartRedis,
    to_store: OpenStore,
    commands: list[tuple[str, ...]],
    reason: str,
) -> None:
    """Each way of not being able has its reason, and none of these is ambiguous."""
    server = await start_redis()
    store = to_store(server.unix_url)
    await store.run(COUNT, ["n"], [1])
    for command in commands:
        server.command(*command)

    refused = await refusal(store.run(COUNT, ["n"], [1]))

    assert (reason, False) == (refused.reason, refused.is_ambiguous)


async def test_a_script_stopped_half_way_may_have_written(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A user who may run a script, but not all its commands, learns what is unknown."""
    server = await start_redis()
    store = to_store(server.unix_url)
    await store.run(COUNT, ["n"], [1])
    server.command("ACL", "SETUSER", "default", "-incrby")

    refused = await refusal(store.run(COUNT, ["n"], [1]))

    assert ("refused", True) == (refused.reason, refused.is_ambiguous)


async def test_a_slow_script_of_somebody_else_is_busy(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """While another's script runs for too long, calls are refused with its reason."""
    server = await start_redis(config={"busy-reply-threshold": "1"})
    store, other = to_store(server.unix_url), to_store(server.unix_url)
    await store.ping()
    endless = to_script("endless", "#!lua\nwhile true do end")
    running = asyncio.create_task(other.run(endless, ["k"], []))

    async with asyncio.timeout(5):
        refused = None
        while refused is None:
            try:
                await store.ping()
            except StoreUnavailable as problem:
                refused = problem
    await store.call("SCRIPT", "KILL", key="")

    assert ("busy", False) == (refused.reason, refused.is_ambiguous)
    with pytest.raises(StoreUnavailable, match="killed"):
        await running


async def test_a_replica_is_left_for_a_new_connection(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """The name behind the URL may lead to another server by now."""
    server = await start_redis()
    store = to_store(server.unix_url)
    await store.run(COUNT, ["n"], [1])
    first = await store.call("CLIENT", "ID", key="")
    server.command("REPLICAOF", "127.0.0.1", "1")
    await refusal(store.run(COUNT, ["n"], [1]))
    server.command("REPLICAOF", "NO", "ONE")

    assert first != await store.call("CLIENT", "ID", key="")
    assert 2 == await store.run(COUNT, ["n"], [1])


ERRORS = [
    ("LOADING Redis is loading the dataset in memory", "loading"),
    ("MASTERDOWN Link with MASTER is down", "replica"),
    ("READONLY You can't write against a read only replica.", "replica"),
    ("BUSY Redis is busy running a script.", "busy"),
    ("OOM command not allowed", "memory"),
    ("NOAUTH Authentication required.", "auth"),
    ("WRONGPASS invalid username-password pair", "auth"),
    ("NOPERM this user has no permissions", "refused"),
    ("MISCONF Redis is configured to save RDB snapshots", "refused"),
    ("NOREPLICAS Not enough good replicas to write.", "refused"),
    ("CLUSTERDOWN The cluster is down", "cluster"),
    ("TRYAGAIN Multiple keys request during rehashing of slot", "cluster"),
]


@pytest.mark.parametrize(("text", "reason"), ERRORS)
def test_an_error_reply_has_its_reason(text: str, reason: str) -> None:
    """The code, which is the first word, decides; the rest is shown."""
    error = to_error(text)

    assert isinstance(error, StoreUnavailable)
    assert (reason, False) == (error.reason, error.is_ambiguous)
    assert f"{reason}: {text.partition(' ')[2]}" == str(error)


def test_other_error_replies_are_read() -> None:
    """What is met inside says where to go; what is left is a mistake of ours."""
    moved, ask = to_error("MOVED 3999 ::1:6381"), to_error("ASK 3999 h:1")

    assert isinstance(moved, Redirected)
    assert isinstance(ask, Redirected)
    assert (3999, Address("::1", 6381)) == (moved.slot, moved.address)
    assert (False, True) == (moved.is_ask, ask.is_ask)
    assert isinstance(to_error("NOSCRIPT No matching script."), ScriptMissing)
    mistake = to_error("ERR user_script:1: oops")
    assert isinstance(mistake, StoreUnavailable)
    assert ("error", True, False) == (
        mistake.reason,
        mistake.is_ambiguous,
        mistake.is_outage,
    )


async def test_a_peer_that_does_not_speak_redis_is_refused(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """A wrong port's babble is a lost connection, not an endless wait."""

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        refused = await refusal(to_store(f"redis://127.0.0.1:{port}").ping())

    assert ("connection", False) == (refused.reason, refused.is_ambiguous)


def _stand_still(for_s: float) -> None:
    time.sleep(for_s)
