"""The Redis users of docs/keys.md: enough for what they do, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from policies.jobs.port import Kept, RecordName
from policies.jobs.redis_jobs import RedisJobs
from policies.key_names import KEY_RECORDS
from policies.ledger import Admitted, Demand, KeyScope, Rejected, Usage
from policies.outage.replicas import Replicas
from policies.plans import Concurrency, KeyLimits, Plan, Quota, Rate
from policies.redis_ledger import RedisLedger
from policies.replay.port import (
    AnswerHead,
    Bounds,
    First,
    InFlight,
    Part,
    Reading,
    ReplayKey,
    Standing,
    Stored,
)
from policies.replay.redis_replays import RedisReplays
from policies.store.errors import StoreUnavailable
from policies.store.store import Store, open_store
from tests.policies.keys_in_redis import digest, key_store, stored_key
from tests.redis_fixtures import StartRedis
from tests.redis_servers import RedisServer

HOUR = timedelta(hours=1)
DOCUMENT = Path(__file__).parents[2] / "docs" / "keys.md"
PLAN = Plan(
    plan="p",
    rates=(Rate(of="requests", limit=60, per="minute"),),
    quotas=(Quota(of="tokens", limit=1000, per="day"),),
    concurrency=Concurrency(limit=2),
)
KEY = KeyScope("0123abcd", KeyLimits(concurrency=Concurrency(limit=1)))


@pytest.fixture
async def server(start_redis: StartRedis) -> RedisServer:
    """A Redis with the users as documented, password included."""
    server = await start_redis()
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("ACL SETUSER"):
            server.command(*line.replace("SECRET", "secret").split())
    return server


def url_of(server: RedisServer, user: str) -> str:
    return f"redis://{user}:secret@{server.address}"


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    """What a gateway opens."""
    store = open_store(url_of(server, "gateway"), timeout_s=5, client_name="test")
    yield store
    await store.aclose()


async def test_commands_change_keys_and_gateways_hear_of_it(
    server: RedisServer,
) -> None:
    """Each with its own user, a change is made by one and followed by the other."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    is_up = asyncio.Event()
    async with (
        key_store(url_of(server, "operator")) as operator,
        key_store(url_of(server, "gateway")) as replica,
        asyncio.timeout(10),
        replica.following(
            on_change=heard.put_nowait, on_up=is_up.set, on_down=is_up.clear
        ),
    ):
        await is_up.wait()
        await operator.create(stored_key("old"))
        assert digest("old") == await heard.get()
        await operator.rotate(digest("old"), digest("new"), HOUR)
        assert await replica.find(digest("new")) is not None
        await operator.revoke(digest("old"))
        assert 1 == len(await operator.find_all())


async def test_gateway_can_change_no_key(server: RedisServer, store: Store) -> None:
    """Neither by the commands' script nor by hand."""
    async with key_store(url_of(server, "gateway")) as replica:
        with pytest.raises(StoreUnavailable, match="refused"):
            await replica.create(stored_key("own"))
    with pytest.raises(StoreUnavailable, match="refused"):
        await store.call("HSET", KEY_RECORDS, "digest", "record", key=KEY_RECORDS)

    assert 0 == server.command("EXISTS", KEY_RECORDS)


async def test_gateway_may_do_all_that_its_ledger_does(
    store: Store, demand: Callable[..., Demand]
) -> None:
    """Admit, reject, renew, settle, reclaim, look, and count the replicas."""
    ledger = RedisLedger(store, lease_ttl_ms=1)
    abandoned = demand(PLAN, 7)
    assert isinstance(await ledger.admit(abandoned), Admitted)
    ledger = RedisLedger(store)
    settled = Demand(
        workspace="acme", plan=PLAN, lease_id="s", reserve=Usage(1, 9), key=KEY
    )
    assert isinstance(await ledger.admit(settled), Admitted)
    assert await ledger.renew("acme", "s", 3)
    assert await ledger.adopt(demand(PLAN, 5))
    assert isinstance(await ledger.admit(demand(PLAN, 1)), Rejected)
    assert await ledger.settle("acme", "s", Usage(1, 4))
    alone = demand(PLAN, 1, workspace="alone")
    assert isinstance(await ledger.admit(alone), Admitted)
    assert await ledger.settle("alone", alone.lease_id, Usage(1, 1))

    states = {s.name: s.used for s in await ledger.inspect("acme", PLAN, KEY)}
    replicas = Replicas(store, "one", clock_us=lambda: 0)
    await replicas.beat()
    await replicas.leave()

    assert states["tokens-per-calendar-day"] == 7 + 4 + 5


@pytest.fixture
def ledger_kind() -> str:
    return "memory"


async def test_gateway_may_keep_answers(store: Store) -> None:
    """Every step of a replay, each of which runs other commands."""
    replays = RedisReplays(store, lease_ms=30_000)
    key, cached = (ReplayKey("acme", s, "k", b"f" * 32) for s in ("key", "cache"))
    head = AnswerHead(200, (), "r", is_stream=True)
    bounds = Bounds(60_000, 2**20, 500)

    for asked in (key, cached):
        assert await replays.claim(asked, "a") == First()
        assert await replays.claim(asked, "b") == InFlight("a")
        await replays.read(asked, "a", 0)
        held = await replays.append(asked, "a", Part(0, b"Hel", head), bounds)
        assert held == Standing(is_held=True, is_followed=True)
        assert (await replays.keep(asked, "a", Part(3, b"lo"), bounds)).has_room
        assert await replays.claim(asked, "b") == Stored("a")
        reading = await replays.read(asked, "a", 0)
        assert reading == Reading("complete", head, b"Hello")
    for number in range(4):  # of which the last has no room beside the first
        free = ReplayKey("acme", "key", f"{number}", b"f" * 32)
        await replays.claim(free, "a")
        await replays.keep(free, "a", Part(0, bytes(100), head), bounds)
    assert await replays.claim(key, "b") == First()
    await replays.withdraw(key, "b")
    await replays.release(key, "b")
    assert await replays.claim(key, "c") == First()


async def test_gateway_may_run_long_jobs(store: Store) -> None:
    """Records, collections and work, each with the commands that are its own."""
    jobs = RedisJobs(store)
    name = RecordName("acme", "file", "file-1")

    assert await jobs.create(name, b"a", 60_000)
    assert await jobs.replace(name, b"b", 1)
    assert [Kept("file-1", 2, b"b")] == list(await jobs.page("acme", "file"))
    assert await jobs.delete(name)
    assert 1 == await jobs.collect("acme", "c", {"1": b"x"}, 60_000)
    assert {"1": b"x"} == await jobs.collected("acme", "c")
    await jobs.discard("acme", "c")
    await jobs.schedule("batches", "item")
    assert 1 == (await jobs.standing("batches")).items
    assert ["item"] == list(await jobs.scheduled("batches", most=10))
    assert ["item"] == list(await jobs.claim("batches", "me", lease_ms=60_000, most=1))
    assert await jobs.renew("batches", "item", "me", lease_ms=60_000)
    assert await jobs.put_off("batches", "item", "me", in_ms=0)
    await jobs.claim("batches", "me", lease_ms=60_000, most=1)
    assert await jobs.finish("batches", "item", "me")
