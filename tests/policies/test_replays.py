"""The port of replays, in memory, in one Redis and in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from policies.replay.memory_replays import MemoryReplays
from policies.replay.packing import COMPRESSED_ABOVE_BYTES, pack_answer
from policies.replay.port import (
    Conflict,
    First,
    InFlight,
    KeptAnswer,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
    Stored,
)
from policies.replay.redis_replays import RedisReplays
from policies.store.store import open_store
from tests.policies.conftest import PATIENCE_S

LEASE_MS = 30_000
TTL_MS = 60_000
KEY = ReplayKey("acme", "order-4711", b"f" * 32)
OTHER_REQUEST = ReplayKey("acme", "order-4711", b"g" * 32)
ANSWER = KeptAnswer(200, ((b"content-type", b"application/json"),), b"{}", "req_1")

Advance = Callable[[int], None]


@pytest.fixture
async def replays(
    store_url: str | None, clock: Callable[[], int]
) -> AsyncIterator[ReplayStore]:
    if store_url is None:
        yield MemoryReplays(lambda: clock() // 1000, lease_ms=LEASE_MS)
        return
    store = open_store(
        store_url,
        timeout_s=PATIENCE_S,
        connect_timeout_s=PATIENCE_S,
        client_name="test",
    )
    yield RedisReplays(store, lease_ms=LEASE_MS)
    await store.aclose()


async def test_the_first_runs_and_the_others_hear_so(replays: ReplayStore) -> None:
    """Its owner may ask again: the first reply may have been lost."""
    assert await replays.claim(KEY, "a") == First()
    assert await replays.claim(KEY, "a") == First()
    assert await replays.claim(KEY, "b") == InFlight()


async def test_of_many_at_once_one_is_the_first(replays: ReplayStore) -> None:
    claims = await asyncio.gather(*(replays.claim(KEY, f"{n}") for n in range(100)))

    assert claims.count(First()) == 1
    assert claims.count(InFlight()) == 99


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00\xff" * 10, id="bytes"),
        pytest.param(b"data: {}\n\n" * COMPRESSED_ABOVE_BYTES, id="large"),
    ],
)
async def test_an_answer_comes_back_as_it_was(
    replays: ReplayStore, body: bytes
) -> None:
    answer = KeptAnswer(422, ANSWER.headers, body, "req_2")
    await replays.claim(KEY, "a")

    assert await replays.keep(KEY, "a", answer, TTL_MS)
    assert await replays.claim(KEY, "b") == Stored(answer)
    assert await replays.claim(KEY, "a") == Stored(answer)


async def test_another_request_under_the_key_is_told_so(replays: ReplayStore) -> None:
    """While the first runs, and once it was answered."""
    await replays.claim(KEY, "a")
    assert await replays.claim(OTHER_REQUEST, "b") == Conflict()

    await replays.keep(KEY, "a", ANSWER, TTL_MS)
    assert await replays.claim(OTHER_REQUEST, "b") == Conflict()


async def test_a_key_is_a_workspaces_own(replays: ReplayStore) -> None:
    await replays.claim(KEY, "a")

    assert await replays.claim(ReplayKey("other", KEY.key, b"x" * 32), "b") == First()
    assert await replays.claim(ReplayKey("acme", "other", b"x" * 32), "b") == First()


async def test_an_answer_is_forgotten_after_its_time(
    replays: ReplayStore, advance: Advance
) -> None:
    """To the millisecond, and not when its claim would have ended."""
    await replays.claim(KEY, "a")
    await replays.keep(KEY, "a", ANSWER, TTL_MS)

    advance(TTL_MS - 1000)
    assert await replays.claim(KEY, "b") == Stored(ANSWER)
    advance(1001)
    assert await replays.claim(OTHER_REQUEST, "b") == First()


async def test_the_claim_of_the_dead_ends_with_its_lease(
    replays: ReplayStore, advance: Advance
) -> None:
    """Who comes back after that may not answer for whoever runs now."""
    await replays.claim(KEY, "dead")
    advance(LEASE_MS + 1)

    assert await replays.claim(KEY, "b") == First()
    assert not await replays.renew(KEY, "dead")
    assert not await replays.keep(KEY, "dead", ANSWER, TTL_MS)
    await replays.release(KEY, "dead")
    assert await replays.claim(KEY, "c") == InFlight()


async def test_a_claim_lives_as_long_as_it_is_renewed(
    replays: ReplayStore, advance: Advance
) -> None:
    await replays.claim(KEY, "a")
    for _ in range(4):
        advance(LEASE_MS - 1000)
        assert await replays.renew(KEY, "a")

    assert await replays.claim(KEY, "b") == InFlight()


async def test_a_key_that_is_given_back_is_free(replays: ReplayStore) -> None:
    await replays.claim(KEY, "a")
    await replays.release(KEY, "b")
    assert await replays.claim(KEY, "b") == InFlight()

    await replays.release(KEY, "a")
    assert await replays.claim(OTHER_REQUEST, "b") == First()


async def test_memory_is_bounded_and_forgets_the_oldest_answers() -> None:
    """What runs is never forgotten."""
    replays = MemoryReplays(lambda: 0, lease_ms=LEASE_MS, max_bytes=50_000)
    await replays.claim(KEY, "running")
    incompressible = bytes(range(256)) * 8
    keys = [ReplayKey("acme", f"{n}", b"f" * 32) for n in range(100)]
    for key in keys:
        answer = KeptAnswer(200, (), incompressible, key.key)
        await replays.claim(key, "a")
        assert await replays.keep(key, "a", answer, TTL_MS)

    assert replays.held_bytes <= 50_000
    assert isinstance(await replays.claim(keys[-1], "b"), Stored)
    assert await replays.claim(keys[0], "b") == First()
    assert await replays.claim(KEY, "b") == InFlight()


@pytest.mark.parametrize("ledger_kind", ["redis"])
@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x07unknown", id="unknown form"),
        pytest.param(b"\x01not zlib", id="broken compression"),
        pytest.param(pack_answer(ANSWER)[:-3], id="cut off"),
    ],
)
async def test_a_damaged_answer_is_never_replayed(
    replays: ReplayStore, store_url: str, damaged: bytes
) -> None:
    await replays.claim(KEY, "a")
    await replays.keep(KEY, "a", ANSWER, TTL_MS)
    store = open_store(store_url, timeout_s=PATIENCE_S, client_name="vandal")
    name = [n for n in await store.call("KEYS", "gw:*", key="gw") if b":answer" in n]
    await store.call("SET", name[0], damaged, key="gw")
    await store.aclose()

    with pytest.raises(ReplayUnavailable):
        await replays.claim(KEY, "b")


@pytest.mark.parametrize("ledger_kind", ["redis"])
async def test_an_evicted_answer_is_run_again(
    replays: ReplayStore, store_url: str
) -> None:
    """Of a cache that evicts, nothing better can be said."""
    await replays.claim(KEY, "a")
    await replays.keep(KEY, "a", ANSWER, TTL_MS)
    store = open_store(store_url, timeout_s=PATIENCE_S, client_name="vandal")
    name = [n for n in await store.call("KEYS", "gw:*", key="gw") if b":answer" in n]
    await store.call("DEL", name[0], key="gw")
    await store.aclose()

    assert await replays.claim(KEY, "b") == First()
    assert await replays.claim(KEY, "c") == InFlight()


@pytest.mark.parametrize("ledger_kind", ["redis"])
async def test_a_store_that_is_known_to_be_away_is_not_asked(store_url: str) -> None:
    """Nobody waits for a time-out to hear what the ledger knows already."""
    store = open_store(store_url, timeout_s=PATIENCE_S, client_name="test")
    replays = RedisReplays(store, lease_ms=LEASE_MS, is_away=lambda: True)

    with pytest.raises(ReplayUnavailable):
        await replays.claim(KEY, "a")

    assert store.flushes_total == 0
    await store.aclose()
