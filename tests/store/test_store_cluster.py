"""A cluster of three masters: each key at its node, wherever its slot goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from policies.store.errors import StoreUnavailable
from policies.store.pipe import FLUSHED_AT
from policies.store.scripts import to_script
from tests.redis_fixtures import StartCluster
from tests.redis_servers import RedisCluster, RedisServer, redis_cluster, slot_of
from tests.store.conftest import (
    COUNT,
    LEAST_RIGHTS,
    OpenStore,
    connections,
    refusal,
    until_gone,
)

TWO_KEYS = to_script("two_keys", "#!lua\nreturn redis.call('MGET', KEYS[1], KEYS[2])")
KEYS = [f"gw:{{tenant-{n}}}:n" for n in range(30)]


@pytest.fixture
async def cluster() -> AsyncIterator[RedisCluster]:
    async with redis_cluster() as cluster:
        yield cluster


async def test_every_key_is_served_by_its_node(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """Calls of one tick share a node's writes, and none is redirected."""
    store = to_store(cluster.url)
    await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))
    before = store.flushes_total

    counted = await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))

    assert [2] * len(KEYS) == counted
    assert store.flushes_total - before <= len(KEYS) // FLUSHED_AT + 3
    assert ["2"] * len(KEYS) == [cluster.node_of(k).command("GET", k) for k in KEYS]


async def test_flushed_scripts_are_loaded_on_each_node(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """Scripts are known to a node, not to the cluster."""
    store = to_store(cluster.url)
    await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))
    for node in cluster.nodes:
        node.command("SCRIPT", "FLUSH")

    counted = await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))

    assert [2] * len(KEYS) == counted


async def test_a_moved_slot_is_followed_and_remembered(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """MOVED costs one detour, not one for each call."""
    store = to_store(cluster.url)
    await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))
    key, source = KEYS[0], cluster.node_of(KEYS[0])
    cluster.move_slot(slot_of(key), cluster.other_than(source))

    assert [2, 3] == [await store.run(COUNT, [key], [1]) for _ in range(2)]

    source.command("CONFIG", "RESETSTAT")
    assert 4 == await store.run(COUNT, [key], [1])
    assert 0 == (await source.connect().info("stats"))["total_error_replies"]


async def test_a_slot_on_the_move_is_asked_for_next_door(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """New keys are written where the slot goes, old ones read where they are."""
    store = to_store(cluster.url, timeout_s=0.5)
    old, new = "{acme}:old", "{acme}:new"
    await store.run(COUNT, [old], [1])
    source = cluster.node_of(old)
    target = cluster.other_than(source)

    with cluster.migrating(slot_of(old), target):
        counted = [await store.run(COUNT, [key], [1]) for key in (old, new, new)]
        several = await asyncio.gather(
            *(store.run(COUNT, [f"{{acme}}:{n}"], [1]) for n in range(20))
        )
        # Neither node has both keys.
        split = await refusal(store.run(TWO_KEYS, [old, new], []))

    assert [2, 1, 2] == counted
    assert [1] * 20 == several
    assert ("cluster", False) == (split.reason, split.is_ambiguous)
    assert [3, 3] == [await store.run(COUNT, [key], [1]) for key in (old, new)]


async def test_a_killed_node_takes_only_its_keys_away(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """The others are served as before, and the dead one's calls fail at once."""
    store = to_store(cluster.url)
    await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))
    dead = cluster.node_of(KEYS[0])
    lost = [key for key in KEYS if cluster.node_of(key) is dead]
    kept = [key for key in KEYS if cluster.node_of(key) is not dead]

    dead.kill()

    for _ in range(3):
        refused = [await refusal(store.run(COUNT, [key], [1])) for key in lost]
        await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in kept))
        assert {"connection"} == {each.reason for each in refused}
    await store.ping()


async def test_a_frozen_node_holds_up_only_its_keys(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """Calls for the others take no longer while the silent one's time out."""
    store = to_store(cluster.url, timeout_s=0.3)
    await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))
    frozen = cluster.node_of(KEYS[0])
    kept = [key for key in KEYS if cluster.node_of(key) is not frozen]
    frozen.freeze()
    started_s = time.monotonic()

    waiting = asyncio.create_task(refusal(store.run(COUNT, [KEYS[0]], [1])))
    counted = await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in kept))

    assert not waiting.done()
    assert [2] * len(kept) == counted
    assert "timeout" == (await waiting).reason
    assert time.monotonic() - started_s < 0.5
    frozen.thaw()


async def test_a_user_with_the_least_rights_follows_the_slots(
    start_cluster: StartCluster, to_store: OpenStore
) -> None:
    """In a cluster a user needs two rights more: to read the map and to be sent on."""
    rules = f">pw {LEAST_RIGHTS} +cluster|slots +asking +incrby"
    cluster = await start_cluster(users={"gateway": rules})
    store = to_store(cluster.url.replace("://", "://gateway:pw@"))
    key = "gw:{acme}:n"
    target = cluster.other_than(cluster.node_of(key))

    with cluster.migrating(slot_of(key), target):
        counted = [await store.run(COUNT, [key], [1])]
    counted.append(await store.run(COUNT, [key], [1]))

    assert [1, 2] == counted


async def test_a_slot_that_nobody_serves_is_the_clusters_trouble(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """Known from the map or told by a server, it ends in time and unambiguously."""
    early = to_store(cluster.url, timeout_s=0.2)
    await asyncio.gather(*(early.run(COUNT, [key], [1]) for key in KEYS))
    for node in cluster.nodes:
        node.command("CLUSTER", "DELSLOTS", slot_of(KEYS[0]))

    for store in (early, to_store(cluster.url, timeout_s=0.2)):
        refused = await refusal(store.run(COUNT, [KEYS[0]], [1]))
        assert ("cluster", False) == (refused.reason, refused.is_ambiguous)


async def test_a_dead_cluster_fails_the_probe(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """One master's answer is enough for the probe, and none is not."""
    store = to_store(cluster.url)
    await store.ping()

    for node in cluster.nodes[1:]:
        node.kill()
    await store.ping()
    cluster.nodes[0].kill()

    assert "connection" == (await refusal(store.ping())).reason


async def test_one_living_seed_is_enough(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """Seeds that are dead or strangers are passed over."""
    living = cluster.nodes[2].address
    store = to_store(f"redis+cluster://127.0.0.1:1,{living}")

    assert [1] * 3 == [await store.run(COUNT, [key], [1]) for key in KEYS[:3]]


async def test_a_server_that_is_no_cluster_is_refused(
    to_store: OpenStore, redis_server: RedisServer
) -> None:
    """The message says what is wrong with the URL."""
    url = redis_server.url.replace("redis://", "redis+cluster://").removesuffix("/0")

    refused = await refusal(to_store(url).ping())

    assert "refused" == refused.reason
    assert "cluster support disabled" in refused.detail


async def test_keys_of_different_slots_are_a_mistake(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """A wrong hash tag is told before anything is sent."""
    store = to_store(cluster.url)

    with pytest.raises(ValueError, match="one hash tag"):
        await store.run(TWO_KEYS, ["{a}", "{b}"], [])
    with pytest.raises(ValueError, match="one hash tag"):
        await store.run(COUNT, [], [1])


async def test_a_closed_store_leaves_nothing(
    start_cluster: StartCluster, to_store: OpenStore
) -> None:
    """Every node's connection ends, whoever was waiting."""
    cluster = await start_cluster()
    store = to_store(cluster.url)
    await asyncio.gather(*(store.run(COUNT, [key], [1]) for key in KEYS))
    assert [1] * 3 == [connections(node) for node in cluster.nodes]

    await store.aclose()

    for node in cluster.nodes:
        await until_gone(node)
    assert "closed" == (await refusal(store.ping())).reason


async def test_one_node_asked_for_alone_says_what_it_is(
    cluster: RedisCluster, to_store: OpenStore
) -> None:
    """A third of all workspaces would work, so that nobody noticed the wrong URL."""
    store = to_store(cluster.nodes[0].url)
    elsewhere = next(k for k in KEYS if cluster.node_of(k) is not cluster.nodes[0])

    with pytest.raises(StoreUnavailable, match=r"redis\+cluster") as refused:
        await store.run(COUNT, [elsewhere], [1])

    assert refused.value.reason == "cluster"
