"""The port of replays, in memory, in one Redis and in a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
import pytest

from policies.key_names import replay_digest, replay_keys
from policies.replay.memory_replays import MemoryReplays
from policies.replay.packing import COMPRESSED_ABOVE_BYTES, Packing
from policies.replay.port import (
    DEAD_KNOWN_MS,
    GONE,
    AnswerHead,
    Bounds,
    Conflict,
    First,
    InFlight,
    Part,
    Reading,
    ReplayDamaged,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
    Standing,
    Stored,
)
from policies.replay.redis_replays import RedisReplays
from policies.store.store import Store, open_store
from tests.policies.conftest import PATIENCE_S

LEASE_MS: Final = 6_000
TTL_MS: Final = 60_000
BOUNDS: Final = Bounds(TTL_MS, 2**20, 2**26)
KEY: Final = ReplayKey("acme", "key", "order-4711", b"f" * 32)
OTHER_REQUEST: Final = ReplayKey("acme", "key", "order-4711", b"g" * 32)
HEAD: Final = AnswerHead(200, ((b"content-type", b"text/plain"),), "req_1", False)
WHOLE: Final = Part(0, b"Hello", HEAD)
HELD: Final = Standing(is_held=True)

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


async def body_of(replays: ReplayStore, recording: str) -> bytes:
    """All of a complete answer, read as a follower does."""
    body, state = b"", "running"
    while state == "running":
        reading = await replays.read(KEY, recording, len(body))
        body, state = body + reading.data, reading.state
    assert state == "complete"
    return body


async def test_the_first_runs_and_the_others_hear_so(replays: ReplayStore) -> None:
    """Its owner may ask again: the first reply may have been lost."""
    assert await replays.claim(KEY, "a") == First()
    assert await replays.claim(KEY, "a") == First()
    assert await replays.claim(KEY, "b") == InFlight("a")


async def test_of_many_at_once_one_is_the_first(replays: ReplayStore) -> None:
    claims = await asyncio.gather(*(replays.claim(KEY, f"{n}") for n in range(100)))

    assert claims.count(First()) == 1
    assert sum(isinstance(claim, InFlight) for claim in claims) == 99


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
    head = msgspec.structs.replace(HEAD, status=422)
    await replays.claim(KEY, "a")

    assert await replays.keep(KEY, "a", Part(0, body, head), BOUNDS) == HELD
    assert await replays.claim(KEY, "b") == Stored("a")
    assert (await replays.read(KEY, "a", 0)).head == head
    assert await body_of(replays, "a") == body


async def test_what_is_recorded_can_be_read_while_it_grows(
    replays: ReplayStore,
) -> None:
    """From any byte on; nothing yet is an answer, too."""
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(head=HEAD), BOUNDS)
    assert await replays.read(KEY, "a", 0) == Reading("running", HEAD)

    await replays.append(KEY, "a", Part(0, b"Hel"), BOUNDS)
    await replays.append(KEY, "a", Part(3, b"lo, "), BOUNDS)
    assert await replays.read(KEY, "a", 0) == Reading("running", HEAD, b"Hello, ")
    for offset in range(8):
        reading = await replays.read(KEY, "a", offset)
        assert (reading.state, reading.data) == ("running", b"Hello, "[offset:])

    await replays.keep(KEY, "a", Part(7, b"you"), BOUNDS)
    last = await replays.read(KEY, "a", 5)
    assert (last.state, last.data) == ("complete", b", you")
    assert (await replays.read(KEY, "a", 10)).state == "complete"


async def test_a_stream_may_end_with_nothing_new(replays: ReplayStore) -> None:
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", WHOLE, BOUNDS)
    await replays.keep(KEY, "a", Part(5), BOUNDS)

    assert await body_of(replays, "a") == b"Hello"


async def test_what_is_said_twice_counts_once(replays: ReplayStore) -> None:
    """A reply may be lost, so each step can be repeated."""
    await replays.claim(KEY, "a")
    for _ in range(2):
        assert await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS) == HELD
    for _ in range(2):
        assert await replays.keep(KEY, "a", Part(3, b"lo"), BOUNDS) == HELD

    assert await body_of(replays, "a") == b"Hello"


async def test_nothing_is_recorded_over_a_gap(replays: ReplayStore) -> None:
    """What is missing would be missed by everybody who reads."""
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)

    assert not (await replays.append(KEY, "a", Part(4, b"o"), BOUNDS)).is_held
    assert (await replays.read(KEY, "a", 0)).data == b"Hel"


async def test_who_runs_it_hears_that_somebody_follows(
    replays: ReplayStore, advance: Advance
) -> None:
    """Who reads, that is, and for as long as it goes on reading."""
    await replays.claim(KEY, "a")
    assert not (await replays.append(KEY, "a", Part(), BOUNDS)).is_followed

    await replays.claim(KEY, "b")
    assert not (await replays.append(KEY, "a", Part(), BOUNDS)).is_followed
    await replays.read(KEY, "a", 0)
    assert (await replays.append(KEY, "a", Part(), BOUNDS)).is_followed
    advance(LEASE_MS - 1000)
    await replays.append(KEY, "a", Part(), BOUNDS)
    advance(1001)
    assert not (await replays.append(KEY, "a", Part(), BOUNDS)).is_followed


async def test_another_request_under_the_key_is_told_so(replays: ReplayStore) -> None:
    """While the first runs, and once it was answered."""
    await replays.claim(KEY, "a")
    assert await replays.claim(OTHER_REQUEST, "b") == Conflict()

    await replays.keep(KEY, "a", WHOLE, BOUNDS)
    assert await replays.claim(OTHER_REQUEST, "b") == Conflict()
    assert await replays.claim(OTHER_REQUEST, "b", replaces=True) == Conflict()


async def test_a_key_is_a_workspaces_own_and_of_one_kind(replays: ReplayStore) -> None:
    await replays.claim(KEY, "a")

    for workspace, scope, key in (
        ("other", "key", KEY.key),
        ("acme", "key", "other"),
        ("acme", "retry", KEY.key),
        ("acme", "cache", KEY.key),
    ):
        asked = ReplayKey(workspace, scope, key, b"x" * 32)  # type: ignore[arg-type]
        assert await replays.claim(asked, "b") == First()


async def test_an_answer_is_forgotten_after_its_time(
    replays: ReplayStore, advance: Advance
) -> None:
    """To the millisecond, and not when its claim would have ended."""
    await replays.claim(KEY, "a")
    await replays.keep(KEY, "a", WHOLE, BOUNDS)

    advance(TTL_MS - 1000)
    assert await replays.claim(KEY, "b") == Stored("a")
    advance(1001)
    assert await replays.claim(OTHER_REQUEST, "b") == First()
    assert await replays.read(KEY, "a", 0) == GONE


async def test_the_claim_of_the_dead_ends_with_its_lease(
    replays: ReplayStore, advance: Advance
) -> None:
    """Who comes next hears who died; who comes back after that has nothing to say."""
    await replays.claim(KEY, "dead")
    await replays.append(KEY, "dead", Part(0, b"Hel", HEAD), BOUNDS)
    advance(LEASE_MS + 1)

    assert await replays.read(KEY, "dead", 0) == GONE
    assert await replays.claim(KEY, "b") == First(("dead",))
    assert await replays.claim(KEY, "b") == First(("dead",))
    assert not (await replays.append(KEY, "dead", Part(3, b"lo"), BOUNDS)).is_held
    assert not (await replays.keep(KEY, "dead", Part(3, b"lo"), BOUNDS)).is_held
    await replays.withdraw(KEY, "dead")
    await replays.release(KEY, "dead")
    assert await replays.claim(KEY, "c") == InFlight("b")
    assert await replays.read(KEY, "b", 0) == Reading("running")

    advance(LEASE_MS + 1)
    assert await replays.claim(KEY, "c") == First(("dead", "b"))
    advance(DEAD_KNOWN_MS + LEASE_MS + 1)
    assert await replays.claim(KEY, "d") == First()


async def test_the_dead_bar_no_other_request(
    replays: ReplayStore, advance: Advance
) -> None:
    await replays.claim(KEY, "dead")
    advance(LEASE_MS + 1)

    assert await replays.claim(OTHER_REQUEST, "b") == First()


async def test_a_claim_lives_as_long_as_it_is_renewed(
    replays: ReplayStore, advance: Advance
) -> None:
    """Also one that was late, as long as nobody else has taken the key."""
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    for late_ms in (-1000, -1000, 1000, -1000):
        advance(LEASE_MS + late_ms)
        assert (await replays.append(KEY, "a", Part(), BOUNDS)).is_held

    assert await replays.claim(KEY, "b") == InFlight("a")


async def test_a_key_that_is_given_back_is_free(replays: ReplayStore) -> None:
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    await replays.release(KEY, "b")
    assert await replays.claim(KEY, "b") == InFlight("a")

    await replays.release(KEY, "a")
    assert await replays.read(KEY, "a", 0) == GONE
    assert await replays.claim(OTHER_REQUEST, "b") == First()
    assert await replays.read(KEY, "b", 0) == Reading("running")


async def test_what_is_withdrawn_still_runs_and_cannot_be_followed(
    replays: ReplayStore,
) -> None:
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    await replays.withdraw(KEY, "a")

    assert await replays.claim(KEY, "b") == InFlight("a", is_joinable=False)
    assert (await replays.read(KEY, "a", 0)).data == b"Hel"
    assert await replays.read(KEY, "a", 3) == GONE
    assert (await replays.append(KEY, "a", Part(), BOUNDS)).is_held
    await replays.release(KEY, "a")
    assert await replays.claim(KEY, "b") == First()


async def test_an_answer_can_be_replaced(replays: ReplayStore) -> None:
    """By who wants none that was given before; what runs is left alone."""
    await replays.claim(KEY, "a")
    assert await replays.claim(KEY, "b", replaces=True) == InFlight("a")
    await replays.keep(KEY, "a", WHOLE, BOUNDS)

    assert await replays.claim(KEY, "b", replaces=True) == First()
    assert await replays.read(KEY, "a", 0) == GONE
    assert await replays.claim(KEY, "c") == InFlight("b")


def keys(count: int) -> list[ReplayKey]:
    return [ReplayKey("acme", "key", f"{n}", b"f" * 32) for n in range(count)]


async def test_a_workspace_is_bounded_and_forgets_its_oldest_answers(
    replays: ReplayStore, advance: Advance
) -> None:
    """Neither another's, nor what runs."""
    bounds = Bounds(TTL_MS, 2**20, 20_000)
    other = ReplayKey("other", "key", "1", b"f" * 32)
    incompressible = bytes(range(256)) * 8
    await replays.claim(other, "a")
    await replays.keep(other, "a", WHOLE, bounds)
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, incompressible, HEAD), bounds)

    asked = keys(30)
    for key in asked:
        advance(1)
        await replays.claim(key, key.key)
        standing = await replays.keep(
            key, key.key, Part(0, incompressible, HEAD), bounds
        )
        assert standing == HELD

    claims = [await replays.claim(key, "b") for key in asked]
    kept = [claim for claim in claims if isinstance(claim, Stored)]
    assert [Stored(key.key) for key in asked[-len(kept) :]] == kept
    assert 5 <= len(kept) <= 9
    assert await replays.claim(other, "b") == Stored("a")
    assert await replays.claim(KEY, "b") == InFlight("a")


async def test_what_runs_alone_may_fill_a_workspace(replays: ReplayStore) -> None:
    """Nothing can make room then: it is told so, and nothing was recorded."""
    bounds = Bounds(TTL_MS, 2**20, 2000)
    incompressible = bytes(range(256)) * 4
    await replays.claim(KEY, "a")
    part = Part(0, incompressible, HEAD)
    assert (await replays.append(KEY, "a", part, bounds)).is_held

    full = await replays.append(KEY, "a", Part(1024, incompressible), bounds)

    assert (full.is_held, full.has_room) == (True, False)
    assert (await replays.read(KEY, "a", 0)).data == incompressible


async def test_what_is_over_is_counted_no_longer(
    replays: ReplayStore, advance: Advance
) -> None:
    """Answers that lived out their time, and recordings whose owner died."""
    bounds = Bounds(TTL_MS, 2**20, 15_000)
    incompressible = bytes(range(256)) * 8
    asked = keys(12)
    # As long as it lives, what the workspace has is counted.
    await replays.claim(KEY, "a")
    for_long = msgspec.structs.replace(bounds, ttl_ms=10 * DEAD_KNOWN_MS)
    await replays.keep(KEY, "a", Part(0, b"Hello", HEAD), for_long)
    for key in asked[:3]:
        await replays.claim(key, "a")
        await replays.append(key, "a", Part(0, incompressible, HEAD), bounds)
    for key in asked[3:6]:
        await replays.claim(key, "a")
        await replays.keep(key, "a", Part(0, incompressible, HEAD), bounds)
    advance(max(TTL_MS, LEASE_MS + DEAD_KNOWN_MS) + 1)

    for key in asked[6:11]:
        await replays.claim(key, "b")
        standing = await replays.append(key, "b", Part(0, incompressible, HEAD), bounds)
        assert standing == HELD


async def test_memory_is_bounded_over_all_workspaces() -> None:
    """What runs is never forgotten."""
    replays = MemoryReplays(lambda: 0, lease_ms=LEASE_MS, max_bytes=50_000)
    await replays.claim(KEY, "running")
    asked = [ReplayKey(f"w{n}", "key", "k", b"f" * 32) for n in range(100)]
    for key in asked:
        await replays.claim(key, "a")
        standing = await replays.keep(key, "a", Part(0, b"x" * 2048, HEAD), BOUNDS)
        assert standing == HELD

    assert replays.held_bytes <= 51_000
    assert await replays.claim(asked[-1], "b") == Stored("a")
    assert await replays.claim(asked[0], "b") == First()
    assert await replays.claim(KEY, "b") == InFlight("running")


class Vandal:
    """Somebody who can write to the server."""

    def __init__(self, store: Store) -> None:
        self._store = store
        names = replay_keys(KEY.workspace, KEY.scope, replay_digest(KEY.scope, KEY.key))
        self.record, self.pieces, self.sizes, *_ = names

    async def call(self, *command: Any) -> Any:
        return await self._store.call(*command, key=self.record)

    async def counted(self) -> int:
        """What the workspace's recordings are taken to have, in bytes."""
        return int(await self.call("HGET", self.sizes, "total") or 0)

    async def forget_all(self) -> None:
        await self.call("DEL", self.record)
        await self.call("DEL", self.pieces)


@pytest.fixture
async def vandal(store_url: str) -> AsyncIterator[Vandal]:
    store = open_store(store_url, timeout_s=PATIENCE_S, client_name="vandal")
    yield Vandal(store)
    await store.aclose()


redis_only = pytest.mark.parametrize("ledger_kind", ["redis"])


@redis_only
@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x07unknown", id="unknown form"),
        pytest.param(b"\x01not zlib", id="broken compression"),
        pytest.param(b"\x02sealed", id="sealed, and no key"),
        pytest.param(Packing().pack(b"Hell", "a", b"5"), id="shorter"),
    ],
)
async def test_a_damaged_answer_is_never_replayed(
    replays: ReplayStore, vandal: Vandal, damaged: bytes
) -> None:
    await replays.claim(KEY, "a")
    await replays.keep(KEY, "a", WHOLE, BOUNDS)
    await vandal.call("DEL", vandal.pieces)
    await vandal.call("XADD", vandal.pieces, "5-1", "p", damaged)

    with pytest.raises(ReplayDamaged):
        await replays.read(KEY, "a", 0)


@redis_only
async def test_an_answer_that_lost_its_end_is_never_replayed(
    replays: ReplayStore, vandal: Vandal
) -> None:
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    await replays.keep(KEY, "a", Part(3, b"lo"), BOUNDS)
    await vandal.call("XDEL", vandal.pieces, "5-1")

    with pytest.raises(ReplayDamaged):
        await body_of(replays, "a")


@redis_only
async def test_an_evicted_answer_is_run_again(
    replays: ReplayStore, vandal: Vandal
) -> None:
    """Of a cache that evicts, nothing better can be said."""
    await replays.claim(KEY, "a")
    await replays.keep(KEY, "a", WHOLE, BOUNDS)
    await vandal.call("DEL", vandal.pieces)

    assert await replays.read(KEY, "a", 0) == GONE
    assert await replays.claim(KEY, "b") == First()
    assert await replays.claim(KEY, "c") == InFlight("b")


@redis_only
async def test_an_answer_evicted_while_it_runs_is_recorded_no_further(
    replays: ReplayStore, vandal: Vandal
) -> None:
    """What is missing would be missed by everybody who reads."""
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    await vandal.call("DEL", vandal.pieces)

    assert not (await replays.append(KEY, "a", Part(3, b"lo"), BOUNDS)).is_held
    assert not (await replays.keep(KEY, "a", Part(3, b"lo"), BOUNDS)).is_held


@redis_only
async def test_a_whole_answer_is_kept_though_its_claim_was_lost(
    replays: ReplayStore, vandal: Vandal
) -> None:
    """By a store that forgets; not if somebody else runs it by now."""
    await replays.claim(KEY, "a")
    await vandal.forget_all()
    assert await replays.keep(KEY, "a", WHOLE, BOUNDS) == HELD
    assert await replays.claim(OTHER_REQUEST, "b") == Conflict()
    assert await body_of(replays, "a") == b"Hello"

    await vandal.forget_all()
    assert await replays.claim(KEY, "b") == First()
    assert not (await replays.keep(KEY, "a", WHOLE, BOUNDS)).is_held
    assert await replays.claim(KEY, "c") == InFlight("b")


@redis_only
async def test_half_an_answer_is_not_kept_where_its_claim_was_lost(
    replays: ReplayStore, vandal: Vandal
) -> None:
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    await vandal.forget_all()

    assert not (await replays.append(KEY, "a", Part(3, b"lo"), BOUNDS)).is_held
    assert not (await replays.keep(KEY, "a", Part(3, b"lo"), BOUNDS)).is_held
    assert await replays.claim(KEY, "b") == First()


@redis_only
async def test_what_is_counted_is_what_is_there(
    replays: ReplayStore, vandal: Vandal, advance: Advance
) -> None:
    """Of a recording whose owner died nothing; of one that is kept all of it."""
    await replays.claim(KEY, "dead")
    await replays.append(KEY, "dead", Part(0, b"x" * 2000, HEAD), BOUNDS)
    assert await vandal.counted() == 2101
    advance(LEASE_MS + 1)
    await replays.claim(KEY, "b")
    assert await vandal.counted() == 0

    await replays.append(KEY, "b", Part(0, b"x" * 1000, HEAD), BOUNDS)
    await replays.keep(KEY, "b", Part(1000, b"y" * 1000), BOUNDS)
    assert await vandal.counted() == 2202
    advance(3 * LEASE_MS)
    other = keys(1)[0]
    await replays.claim(other, "c")
    await replays.append(other, "c", Part(0, b"z" * 100, HEAD), BOUNDS)
    assert await vandal.counted() == 2202 + 201
    await replays.release(other, "c")
    assert await vandal.counted() == 2202


@redis_only
async def test_all_that_is_kept_has_an_end(
    replays: ReplayStore, vandal: Vandal
) -> None:
    await replays.claim(KEY, "a")
    await replays.append(KEY, "a", Part(0, b"Hel", HEAD), BOUNDS)
    await replays.keep(KEY, "a", Part(3, b"lo"), BOUNDS)
    for key in keys(3):
        await replays.claim(key, "a")
        await replays.append(key, "a", WHOLE, BOUNDS)

    names = await vandal.call("KEYS", "*")
    assert len(names) == 2 * 4 + 3
    for name in names:
        assert await vandal.call("PTTL", name) > 0


@redis_only
async def test_a_store_that_is_known_to_be_away_is_not_asked(store_url: str) -> None:
    """Nobody waits for a time-out to hear what the ledger knows already."""
    store = open_store(store_url, timeout_s=PATIENCE_S, client_name="test")
    replays = RedisReplays(store, lease_ms=LEASE_MS, is_away=lambda: True)

    with pytest.raises(ReplayUnavailable):
        await replays.claim(KEY, "a")

    assert store.flushes_total == 0
    await store.aclose()
