"""
Fixtures of real Redis servers.

One server of each kind serves a whole test process, started when it is first wanted.
What a test kills, freezes or configures it gets from a factory, for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final, TypeAlias

import pytest
from _pytest.runner import runtestprotocol

from tests.servers.clock import START, FakeClock, library
from tests.servers.cluster import RedisCluster, redis_cluster
from tests.servers.redis_server import RedisServer
from tests.servers.sentinel import RedisSentinel, redis_sentinel
from tests.servers.tls import Certificates

StartRedis: TypeAlias = Callable[..., Awaitable[RedisServer]]
StartCluster: TypeAlias = Callable[..., Awaitable[RedisCluster]]
StartSentinel: TypeAlias = Callable[..., Awaitable[RedisSentinel]]


# Which tests live by libfaketime, directly or by their ledger.
_TIMED: Final = frozenset({"redis_clock", "timed_redis", "timed_cluster", "store_url"})


def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> bool | None:
    """
    Give a test under libfaketime a second try.

    Now and then, on a busy machine, a server sees the true time for one look, weeks
    after its own: everything it holds expires. Nothing tells that from a fault but that
    a fault is there again; the first try's report stands in a section of the second's.
    """
    if not _TIMED & set(getattr(item, "fixturenames", ())):
        return None
    hook, where = item.ihook, {"nodeid": item.nodeid, "location": item.location}
    hook.pytest_runtest_logstart(**where)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    failed = [report for report in reports if report.failed]
    if failed:
        item.add_report_section("call", "first try", failed[0].longreprtext)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(**where)
    return True


def _run(step: Coroutine[Any, Any, None]) -> None:
    """Wait for a step of a server that outlives every test's event loop."""
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(step)
    finally:
        loop.close()


@pytest.fixture(scope="session")
def session_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        _run(server.start())
        yield server
    finally:
        _run(server.aclose())


@pytest.fixture
async def redis_server(session_redis: RedisServer) -> AsyncIterator[RedisServer]:
    """A server by the real clock; shared, so leave it running."""
    yield session_redis
    await session_redis.hang_up()


@pytest.fixture(scope="session")
def session_clock() -> Iterator[FakeClock]:
    if library() is None:
        pytest.skip("no libfaketime for this machine")
    clock = FakeClock()
    yield clock
    clock.close()


@pytest.fixture
def redis_clock(session_clock: FakeClock) -> FakeClock:
    """The time of `timed_redis` and `timed_cluster`, standing at START."""
    session_clock.travel_to(START.isoformat())
    return session_clock


@pytest.fixture(scope="session")
def session_timed_redis(session_clock: FakeClock) -> Iterator[RedisServer]:
    server = RedisServer(clock=session_clock)
    try:
        _run(server.start())
        yield server
    finally:
        _run(server.aclose())


@pytest.fixture
async def timed_redis(
    session_timed_redis: RedisServer, redis_clock: FakeClock
) -> AsyncIterator[RedisServer]:
    """An empty server that lives by `redis_clock`; shared, so leave it running."""
    session_timed_redis.command("FLUSHALL")
    yield session_timed_redis
    await session_timed_redis.hang_up()


@pytest.fixture(scope="session")
def session_timed_cluster(session_clock: FakeClock) -> Iterator[RedisCluster]:
    cluster = RedisCluster(clock=session_clock)
    try:
        _run(cluster.start())
        yield cluster
    finally:
        _run(cluster.aclose())


@pytest.fixture
async def timed_cluster(
    session_timed_cluster: RedisCluster, redis_clock: FakeClock
) -> AsyncIterator[RedisCluster]:
    """An empty cluster that lives by `redis_clock`; shared, so leave it running."""
    session_timed_cluster.flush()
    yield session_timed_cluster
    await session_timed_cluster.hang_up()


@pytest.fixture
async def start_redis() -> AsyncIterator[StartRedis]:
    """Starts servers of the test's own, to be killed or configured at will."""
    async with AsyncExitStack() as running:

        async def start(**options: Any) -> RedisServer:
            return await running.enter_async_context(RedisServer(**options))

        yield start


@pytest.fixture
async def start_cluster() -> AsyncIterator[StartCluster]:
    """Starts clusters of the test's own."""
    async with AsyncExitStack() as running:

        async def start(**options: Any) -> RedisCluster:
            return await running.enter_async_context(redis_cluster(**options))

        yield start


@pytest.fixture
async def start_sentinel() -> AsyncIterator[StartSentinel]:
    """Starts pairs of servers with their sentinels, of the test's own."""
    async with AsyncExitStack() as running:

        async def start(**options: Any) -> RedisSentinel:
            return await running.enter_async_context(redis_sentinel(**options))

        yield start


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))
