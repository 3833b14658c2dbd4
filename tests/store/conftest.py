"""Stores under test, on real servers, and the proof that each leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

import pytest
import uvloop

from policies.store.errors import StoreUnavailable
from policies.store.scripts import to_script
from policies.store.store import Store, open_store
from tests.redis_servers import RedisServer
from tests.servers.process import until

OpenStore: TypeAlias = Callable[..., Store]

# A test that is not about time-outs must not meet one on a busy machine.
RELAXED_S: Final = 5.0

COUNT: Final = to_script(
    "count", "#!lua\nreturn redis.call('INCRBY', KEYS[1], ARGV[1])"
)


# What the store itself needs; a script's own commands come on top, here `incrby`.
LEAST_RIGHTS: Final = (
    "resetkeys resetchannels -@all ~gw:* &gw:* +ping +evalsha +script|load"
    " +client|setname +select +subscribe +publish"
)

# Timers and sockets take turns in another order in each loop.
IN_BOTH_LOOPS: Final = frozenset({"test_store_calls.py", "test_store_faults.py"})


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The gateway runs on uvloop; what depends on timers is tested on both."""
    del config
    if item.path.name in IN_BOTH_LOOPS:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def to_store() -> AsyncIterator[OpenStore]:
    """Opens stores, closes them after the test, and finds no task left over."""
    stores: list[Store] = []

    def to_store(url: str, **options: Any) -> Store:
        timeouts = {"timeout_s": RELAXED_S, "connect_timeout_s": RELAXED_S}
        store = open_store(url, client_name="under-test", **(timeouts | options))
        stores.append(store)
        return store

    yield to_store
    for store in stores:
        await store.aclose()
    assert {asyncio.current_task()} == asyncio.all_tasks()


@pytest.fixture
async def store(
    to_store: OpenStore,
    redis_server: RedisServer,
) -> Store:
    """A store on the shared server, with its connection made."""
    store = to_store(redis_server.unix_url)
    await store.ping()
    return store


async def refusal(answer: Awaitable[object]) -> StoreUnavailable:
    """The StoreUnavailable that this raises."""
    with pytest.raises(StoreUnavailable) as caught:
        await answer
    return caught.value


def connections(server: RedisServer) -> int:
    """How many connections of stores under test the server has."""
    clients = server.command("CLIENT", "LIST")
    return str(clients).count("under-test")


async def until_served(store: Store, key: str = "any") -> None:
    """Wait until the store answers again."""
    async with asyncio.timeout(10):
        while True:
            try:
                await store.call("GET", key, key=key)
            except StoreUnavailable:
                await asyncio.sleep(0.01)
            else:
                return


async def until_gone(server: RedisServer) -> None:
    """Wait until the server has no connection of a store under test."""
    await until(lambda: connections(server) == 0, "no connection left")
