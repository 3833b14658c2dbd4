"""Scripts: sent by their sha, loaded where they are missing, without the caller."""

from __future__ import annotations

import asyncio
import hashlib
from importlib.resources import files

import pytest

from policies.store.errors import StoreUnavailable
from policies.store.scripts import load_script, to_script
from policies.store.store import Store
from tests.redis_fixtures import StartRedis
from tests.store.conftest import COUNT, OpenStore, until_served

NAMES = sorted(
    entry.name.removesuffix(".lua")
    for entry in files("policies").joinpath("lua").iterdir()
    if entry.name.endswith(".lua")
)


async def test_a_script_runs_on_a_server_that_never_saw_it(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A fresh Redis needs no preparation."""
    server = await start_redis()
    store = to_store(server.unix_url)

    assert [3, 5] == [await store.run(COUNT, ["n"], [n]) for n in (3, 2)]


async def test_scripts_given_beforehand_are_loaded_with_every_connection(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """None is missed, so none runs after what was sent later."""
    server = await start_redis()
    store = to_store(server.unix_url, scripts=[COUNT])
    for _ in range(2):
        assert await store.run(COUNT, ["n"], [0]) == 0
        await server.restart()
        await until_served(store)

    assert await store.run(COUNT, ["n"], [0]) == 0

    assert "errorstat_NOSCRIPT" not in await server.connect().info("errorstats")


async def test_flushed_scripts_are_loaded_once_for_all_callers(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """SCRIPT FLUSH amid the traffic fails nobody, and sends the text once."""
    server = await start_redis()
    store = to_store(server.unix_url)
    await store.run(COUNT, ["n"], [0])
    server.command("SCRIPT", "FLUSH")
    server.command("CONFIG", "RESETSTAT")

    counted = await asyncio.gather(*(store.run(COUNT, ["n"], [1]) for _ in range(50)))

    assert list(range(1, 51)) == sorted(counted)
    stats = await server.connect().info("commandstats")
    assert 1 == stats["cmdstat_script|load"]["calls"]


async def test_a_restarted_server_learns_the_script_again(
    start_redis: StartRedis, to_store: OpenStore
) -> None:
    """A Redis that comes back empty-headed serves the next call."""
    server = await start_redis()
    store = to_store(server.unix_url)
    await store.run(COUNT, ["n"], [1])

    await server.restart()
    await until_served(store)

    assert 1 == await store.run(COUNT, ["n"], [1])


async def test_two_versions_of_a_script_live_side_by_side(store: Store) -> None:
    """Replicas of two releases run against one Redis during a roll-out."""
    old = to_script("version", "#!lua\nreturn 1")
    new = to_script("version", "#!lua\nreturn 2")

    replies = await asyncio.gather(*(store.run(s, ["k"], []) for s in (old, new, old)))

    assert [1, 2, 1] == replies


async def test_a_script_that_does_not_compile_says_so(store: Store) -> None:
    """All who wanted it hear of the mistake, not that it is missing."""
    broken = to_script("broken", "#!lua\nreturn (")

    outcomes = await asyncio.gather(
        *(store.run(broken, ["k"], []) for _ in range(3)), return_exceptions=True
    )

    assert [StoreUnavailable] * 3 == [type(outcome) for outcome in outcomes]
    assert "compiling" in str(outcomes[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_scripts_are_found(name: str) -> None:
    """The files are part of the package, and the sha is the one Redis computes."""
    script = load_script(name)

    assert name == script.name
    assert (
        hashlib.new("sha1", script.text.encode(), usedforsecurity=False).hexdigest()
        == script.sha
    )


def test_parts_are_joined_in_order() -> None:
    """A prelude comes first; the last part names the script."""
    first, last = NAMES[0], NAMES[-1]
    joined = load_script(first, last)

    assert last == joined.name
    assert load_script(first).text + load_script(last).text == joined.text
