"""The servers that other tests rely on do what they are relied on for."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio import Redis

from tests.redis_fixtures import StartCluster, StartRedis, StartSentinel
from tests.redis_servers import (
    START,
    Certificates,
    FakeClock,
    RedisCluster,
    RedisServer,
    slot_of,
)
from tests.servers.process import PATIENCE_S, until

DAY_MS = 86_400_000

# Starts a server in a process of its own, tells of it, and goes on until killed.
STARTS_AND_HANGS = """
import asyncio
from tests.redis_servers import RedisServer

async def main():
    async with RedisServer() as server:
        print(server.pid, server.directory, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def micros(told: tuple[int, int] | list[bytes]) -> int:
    return int(told[0]) * 1_000_000 + int(told[1])


@pytest.mark.parametrize("step_us", [1, 999_999, 1_234_567, 40 * DAY_MS * 1000 + 1])
async def test_time_is_the_clocks_to_the_microsecond(
    timed_redis: RedisServer, redis_clock: FakeClock, step_us: int
) -> None:
    """The command TIME tells the clock's time, exactly and at once."""
    client = timed_redis.connect()

    told = []
    for _ in range(5):
        redis_clock.now_us += step_us
        told.append(micros(await client.time()) - redis_clock.now_us)

    assert [0] * 5 == told


async def test_time_inside_a_script_is_the_clocks(
    timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """A script sees the same time, on a connection that saw an earlier one."""
    client = timed_redis.connect()
    await client.ping()

    redis_clock.travel_to("2027-02-28T23:59:59.999999")
    told = await client.register_script("return redis.call('TIME')")()

    assert redis_clock.now_us == micros(told)


async def test_keys_expire_by_the_clock(
    timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """Redis keeps a key through its last millisecond and not a moment longer."""
    client = timed_redis.connect()
    await client.set("key", "value", px=DAY_MS)

    redis_clock.advance(DAY_MS)
    left = await client.pttl("key"), await client.get("key")
    redis_clock.advance(1)

    assert (0, "value") == left
    assert await client.get("key") is None


async def test_a_shared_timed_server_starts_empty_and_early(
    timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """What earlier tests wrote is gone, and so is the time they travelled."""
    client = timed_redis.connect()

    assert [] == await client.keys("*")
    assert START.timestamp() * 1_000_000 == redis_clock.now_us
    assert redis_clock.now_us == micros(await client.time())


async def test_the_real_clock_goes_on(redis_server: RedisServer) -> None:
    """A server without a clock has the machine's time."""
    before_us = time.time_ns() // 1000
    told = micros(await redis_server.connect().time())

    assert before_us <= told <= time.time_ns() // 1000


async def test_a_unix_socket_leads_to_the_same_server(
    redis_server: RedisServer,
) -> None:
    """Both urls of a server serve the same data."""
    async with (
        Redis.from_url(redis_server.url) as tcp,
        Redis.from_url(redis_server.unix_url) as unix,
    ):
        await tcp.set("servers:url", "same")

        assert b"same" == await unix.get("servers:url")


async def test_a_frozen_server_is_silent_until_it_thaws(
    start_redis: StartRedis,
) -> None:
    """While frozen it takes a command and does not answer; then it does."""
    server = await start_redis()
    impatient = server.connect(socket_timeout=0.05)
    await impatient.ping()

    server.freeze()
    with pytest.raises(redis.TimeoutError):
        await impatient.set("key", "value")
    server.thaw()

    assert "value" == await server.connect().get("key")


async def test_what_an_aof_has_survives_a_kill(start_redis: StartRedis) -> None:
    """A killed server comes back at its address with all that it confirmed."""
    server = await start_redis(aof="always")
    url, pid = server.url, server.pid
    await server.connect().set("key", "value")

    server.kill()
    assert not server.is_running
    await server.start()

    assert (url, True) == (server.url, server.pid != pid)
    assert "value" == await server.connect().get("key")


async def test_a_restart_without_aof_forgets(start_redis: StartRedis) -> None:
    """Without persistence the data ends with the process, scripts included."""
    server = await start_redis()
    client = server.connect()
    await client.set("key", "value")
    sha = await client.script_load("return 1")

    await server.restart()

    assert await server.connect().get("key") is None
    assert [False] == await server.connect().script_exists(sha)


async def test_the_port_of_a_killed_server_is_kept_for_it(
    start_redis: StartRedis,
) -> None:
    """No other server is given the port meanwhile, and connections are refused."""
    server = await start_redis()

    server.kill()

    with pytest.raises(OSError, match="in use"):
        _bind(server.port)
    with pytest.raises(redis.ConnectionError):
        server.command("PING")


async def test_a_user_may_do_what_its_rules_say(start_redis: StartRedis) -> None:
    """ACL users and the default user's password are as asked for."""
    rules = ">secret ~gw:* +get +set"
    server = await start_redis(password="all/mine", users={"gateway": rules})
    gateway = server.connect(username="gateway", password="secret")
    await gateway.set("gw:key", "value")

    with pytest.raises(redis.exceptions.NoPermissionError):
        await gateway.get("other")
    async with Redis.from_url(server.url) as admin:
        assert b"value" == await admin.get("gw:key")
    async with Redis.from_url(server.url.replace("mine", "yours")) as stranger:
        with pytest.raises(redis.AuthenticationError):
            await stranger.ping()


async def test_tls_is_verified(
    start_redis: StartRedis, certificates: Certificates, tmp_path: Path
) -> None:
    """The authority's clients get through; those of another and plain ones do not."""
    server = await start_redis(tls=certificates.server_context())
    other = Certificates(tmp_path / "other")

    async with Redis.from_url(server.tls_url, **_trusting(certificates)) as trusting:
        assert await trusting.ping()
    async with Redis.from_url(server.tls_url, **_trusting(other)) as wary:
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await wary.ping()
    plain = server.tls_url.replace("rediss", "redis")
    async with Redis.from_url(plain) as naive:
        with pytest.raises(redis.ConnectionError):
            await naive.ping()


async def test_tls_can_ask_for_the_clients_certificate(
    start_redis: StartRedis, certificates: Certificates
) -> None:
    """With mutual TLS only a client that shows its certificate is served."""
    context = certificates.server_context(needs_client_cert=True)
    server = await start_redis(tls=context)
    trust = _trusting(certificates)
    shown: dict[str, Any] = {
        "ssl_certfile": str(certificates.client_cert),
        "ssl_keyfile": str(certificates.client_key),
    }

    async with Redis.from_url(server.tls_url, **trust, **shown) as known:
        assert await known.ping()
    async with Redis.from_url(server.tls_url, **trust) as nameless:
        with pytest.raises((redis.ConnectionError, ssl.SSLError)):
            await nameless.ping()


async def test_a_cluster_redirects(start_cluster: StartCluster) -> None:
    """A key's node serves it, and each other node says MOVED."""
    cluster = await start_cluster()
    owner = cluster.node_of("{acme}:key")
    owner.command("SET", "{acme}:key", "value")

    for node in cluster.nodes:
        if node is not owner:
            with pytest.raises(redis.exceptions.MovedError, match=owner.address):
                node.command("GET", "{acme}:key")
    assert 16_384 == sum(last - first + 1 for first, last in _ranges(cluster))
    assert abs(micros(owner.command("TIME")) - time.time_ns() // 1000) < 1_000_000


async def test_a_slot_on_the_move_says_ask_and_then_moved(
    start_cluster: StartCluster,
) -> None:
    """Keys that stay are served, others asked for next door; then all have moved."""
    cluster = await start_cluster()
    source = cluster.node_of("{acme}:key")
    target = cluster.other_than(source)
    source.command("SET", "{acme}:key", "value")

    with cluster.migrating(slot_of("{acme}:key"), target):
        assert "value" == source.command("GET", "{acme}:key")
        with pytest.raises(redis.exceptions.AskError, match=target.address):
            source.command("GET", "{acme}:new")

    with pytest.raises(redis.exceptions.MovedError, match=target.address):
        source.command("GET", "{acme}:key")
    assert "value" == target.command("GET", "{acme}:key")
    assert target is cluster.node_of("{acme}:key")


async def test_a_cluster_survives_a_jump_in_time(
    timed_cluster: RedisCluster, redis_clock: FakeClock
) -> None:
    """A month passes for every node, none is missed, and keys expire."""
    node = timed_cluster.node_of("key")
    node.command("SET", "key", "value", "PX", DAY_MS)

    redis_clock.advance(31 * DAY_MS)

    # A node is missed if a ping was under way during a jump longer than this.
    timeout_ms = node.command("CONFIG", "GET", "cluster-node-timeout")[1]
    assert int(timeout_ms) > 31 * DAY_MS
    assert [True] * 3 == [each.is_in_good_state() for each in timed_cluster.nodes]
    assert node.command("GET", "key") is None


async def test_a_killed_node_takes_only_its_slots_away(
    start_cluster: StartCluster,
) -> None:
    """The others go on serving theirs until the node is missed."""
    cluster = await start_cluster()
    dead = cluster.node_of("{acme}:key")

    dead.kill()
    other = cluster.other_than(dead)
    key = next(key for key in map(str, range(99)) if cluster.node_of(key) is other)

    assert other.is_in_good_state()
    assert other.command("SET", key, "value")
    with pytest.raises(redis.exceptions.MovedError, match=dead.address):
        other.command("GET", "{acme}:key")


async def test_a_killed_master_is_replaced(start_sentinel: StartSentinel) -> None:
    """The sentinels agree on the replica, which has the data and takes writes."""
    watched = await start_sentinel()
    old = watched.master
    old.command("SET", "key", "value")
    old.command("WAIT", 1, int(PATIENCE_S * 1000))

    old.kill()
    await watched.until_replaced(old)

    assert watched.servers[1] is watched.master
    assert "value" == watched.master.command("GET", "key")
    assert watched.master.command("SET", "key", "another")


async def test_an_orderly_failover_exchanges_the_roles(
    start_sentinel: StartSentinel,
) -> None:
    """The old master becomes a replica, which refuses writes; passwords are used."""
    watched = await start_sentinel(password="p w", sentinel_password="s w")
    old = watched.master

    await watched.failover()
    await watched.until_watched()

    assert old is watched.replica
    with pytest.raises(redis.exceptions.ReadOnlyError):
        old.command("SET", "key", "value")


async def test_a_start_that_fails_shows_the_log() -> None:
    """The failure says what the server said, and leaves nothing behind."""
    server = RedisServer(config={"no-such-setting": "yes"})

    with pytest.raises(AssertionError, match="no-such-setting yes"):
        async with server:
            pass

    assert not server.is_running
    assert not server.directory.exists()


async def test_nothing_is_left_of_a_closed_server() -> None:
    """Process, directory and port are free when a test is done."""
    async with RedisServer() as server:
        pid = server.pid

    assert not _is_alive(pid)
    assert not server.directory.exists()
    _bind(server.port)


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_no_server_outlives_a_killed_test_run() -> None:
    """A run that is killed without a chance to clean up takes its servers along."""
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_AND_HANGS], stdout=subprocess.PIPE
    ) as run:
        assert run.stdout
        told, directory = run.stdout.readline().decode().split()
        pid = int(told)
        assert _is_alive(pid)

        run.send_signal(signal.SIGKILL)

        asyncio.run(until(lambda: not _is_alive(pid), "the server to end"))

    # Only the process is certain to end: a run killed like this leaves its files.
    shutil.rmtree(directory)


def _trusting(certificates: Certificates) -> dict[str, Any]:
    return {"ssl_ca_certs": str(certificates.ca_cert)}


def _ranges(cluster: RedisCluster) -> list[tuple[int, int]]:
    told = cluster.nodes[0].command("CLUSTER", "SLOTS")
    return sorted((first, last) for first, last, *_ in told)


def _bind(port: int) -> None:
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", port))


def _is_alive(pid: int) -> bool:
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False
    # Whoever inherits an orphan may be slow to reap it.
    return told.rpartition(")")[2].split()[0] != "Z"
