"""An answer that is recorded as it grows: what is lost on its way, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from gateway.errors import GatewayError, UpstreamError
from gateway.replay.recording import (
    HIGH_WATER_BYTES,
    LocalReader,
    Recording,
)
from gateway.replay.remote import RemoteAnswers
from gateway.replay.writing import PIECE_BYTES, WRITE_EVERY_S, Keeps
from policies.replay.memory_replays import MemoryReplays
from policies.replay.port import (
    AnswerHead,
    Bounds,
    Claim,
    First,
    InFlight,
    Part,
    Reading,
    ReplayKey,
    ReplayUnavailable,
    Standing,
    Stored,
)
from tests.gateway_under_test import until

KEY = ReplayKey("acme", "key", "order", b"f" * 32)
HEAD = AnswerHead(200, (), "req_1", is_stream=True)
BOUNDS = Bounds(60_000, 2**20, 2**26)
SMALL = Bounds(60_000, 100_000, 2**26)


class Faulty(MemoryReplays):
    """A store that loses replies, or is away, when a test says so."""

    def __init__(self) -> None:
        super().__init__(lambda: 0, lease_ms=6000)
        self.appends = self.withdrawals = 0
        # Of appends and keeps: done, and not answered; or not even done.
        self.replies_lost = 0
        self.is_away = False

    async def append(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        self.appends += 1
        return await self._faulty(super().append(key, owner, part, bounds))

    async def keep(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        return await self._faulty(super().keep(key, owner, part, bounds))

    async def withdraw(self, key: ReplayKey, owner: str) -> None:
        await super().withdraw(key, owner)
        self.withdrawals += 1

    async def _faulty(self, step: Coroutine[Any, Any, Standing]) -> Standing:
        if self.is_away:
            step.close()
            raise ReplayUnavailable
        standing = await step
        if self.replies_lost:
            self.replies_lost -= 1
            raise ReplayUnavailable(is_ambiguous=True)
        return standing


class Run:
    """A request that runs, and what became of its key."""

    def __init__(self, store: Faulty, bounds: Bounds) -> None:
        self.store = store
        self.tasks: list[asyncio.Task[None]] = []
        self.ended: list[Recording] = []
        self.recording = Recording(
            store,
            RemoteAnswers(store),
            KEY,
            "run",
            bounds,
            runner="key-1",
            run_beside=self._run_beside,
            on_end=self.ended.append,
        )

    def _run_beside(self, step: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(step))

    async def at_rest(self) -> None:
        """Everything that was begun has ended."""
        async with asyncio.timeout(5):
            while not all(task.done() for task in self.tasks):
                await asyncio.wait(self.tasks)

    async def end(self, keeps: Keeps = "yes") -> Claim:
        """End it; what the next one to ask is told."""
        if self.recording.outcome is None:
            self.recording.complete("ok")
        self.recording.close(None, keeps)
        await self.at_rest()
        assert self.ended == [self.recording]
        return await self.store.claim(KEY, "next")

    async def kept(self) -> bytes:
        """All that is kept, as another replica reads it."""
        return await read_all(RemoteAnswers(self.store).read(KEY, "run"))


async def read_all(reader: Any) -> bytes:
    body, reading = b"", Reading("running")
    async with asyncio.timeout(5):
        while reading.state == "running":
            reading = await reader.next()
            body += reading.data
    assert reading.state == "complete"
    return body


@pytest.fixture
def store() -> Faulty:
    return Faulty()


@pytest.fixture
async def run(store: Faulty, request: pytest.FixtureRequest) -> AsyncIterator[Run]:
    """A run that has claimed its key and begun its answer."""
    await store.claim(KEY, "run")
    run = Run(store, getattr(request, "param", BOUNDS))
    run.recording.begin(HEAD)
    yield run
    await run.at_rest()


def texts(count: int, size: int = 1000) -> list[bytes]:
    return [b"%d " % n * (size // len(b"%d " % n)) for n in range(count)]


async def add_all(run: Run, texts: list[bytes]) -> bytes:
    """As whoever runs it does: each as it comes, and not while it is full."""
    for text in texts:
        run.recording.add(text)
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await run.recording.room()
    return b"".join(texts)


async def test_a_lost_reply_is_not_a_gap(run: Run) -> None:
    """What may have arrived is sent again as it was, not with what came since."""
    run.store.replies_lost = 1
    body = await add_all(run, texts(40))
    await until(lambda: run.store.appends > 1 and not run.store.replies_lost, "again")
    body += await add_all(run, texts(10))

    assert isinstance(await run.end(), Stored)
    assert await run.kept() == body


async def test_the_end_is_written_though_a_reply_is_lost(run: Run) -> None:
    """It is the answer that was paid: the last step is tried twice."""
    body = await add_all(run, texts(3))
    run.store.replies_lost = 1

    assert isinstance(await run.end(), Stored)
    assert await run.kept() == body


async def test_the_end_waits_for_what_is_being_written(run: Run) -> None:
    run.recording.add(b"x" * PIECE_BYTES)  # begins a write of its own
    run.recording.add(b"y" * PIECE_BYTES)

    assert isinstance(await run.end(), Stored)
    assert await run.kept() == b"x" * PIECE_BYTES + b"y" * PIECE_BYTES


async def test_a_store_that_is_away_is_asked_seldom(run: Run) -> None:
    """And not as fast as it can be asked in vain."""
    run.store.is_away = True
    run.recording.add(b"x" * 2 * PIECE_BYTES)
    await asyncio.sleep(1.2 * WRITE_EVERY_S)  # in vain, but for once or twice

    assert 1 <= run.store.appends <= 3


async def test_a_store_that_is_away_for_long_costs_only_the_keeping(run: Run) -> None:
    """Its client gets everything, at its own pace."""
    own = run.recording.read(is_own=True)
    reading = asyncio.create_task(read_all(own))
    run.store.is_away = True
    body = await add_all(run, texts(300))
    run.recording.complete("ok")

    assert await reading == body
    run.store.is_away = False
    assert await run.end() == First()


async def test_what_is_written_is_no_longer_held(run: Run) -> None:
    body = await add_all(run, texts(500))
    assert run.recording.held_bytes <= HIGH_WATER_BYTES + 1000

    reader = run.recording.read(is_own=True)
    reading = asyncio.create_task(read_all(reader))
    run.recording.complete("ok")
    assert await reading == body


@pytest.mark.parametrize("keeps", ["no", "if_followed"])
async def test_a_client_that_lags_behind_gets_what_is_not_kept(
    run: Run, keeps: Keeps
) -> None:
    """Nobody else may begin before it has; then the key is free."""
    own = run.recording.read(is_own=True)
    body = await add_all(run, texts(500))
    run.recording.complete("ok")
    run.recording.close(None, keeps)
    await until(lambda: run.store.withdrawals == 1, "the claim to be closed")
    told = await run.store.claim(KEY, "next")
    assert told == InFlight("run", is_joinable=False)

    assert await read_all(own) == body
    own.close()
    await run.at_rest()
    assert await run.store.claim(KEY, "next") == First()


async def test_a_client_that_leaves_meanwhile_frees_the_key(run: Run) -> None:
    own = run.recording.read(is_own=True)
    await add_all(run, texts(500))
    run.recording.complete("ok")
    run.recording.close(None, "no")
    await asyncio.sleep(0)
    own.close()
    await run.at_rest()

    assert await run.store.claim(KEY, "next") == First()


@pytest.mark.parametrize("run", [SMALL], indirect=True)
async def test_of_what_is_too_large_only_its_client_sets_the_pace(run: Run) -> None:
    """Who follows keeps up, or loses it; the client misses nothing."""
    own = run.recording.read(is_own=True)
    asleep = run.recording.read()
    awake = run.recording.read()
    reading = [asyncio.create_task(read_all(each)) for each in (own, awake)]

    body = await add_all(run, texts(1000))
    run.recording.complete("ok")

    assert await asyncio.gather(*reading) == [body, body]
    with pytest.raises(AssertionError):
        await read_all(asleep)
    assert run.recording.held_bytes <= HIGH_WATER_BYTES + 1000
    assert await run.end() == First()


@pytest.mark.parametrize("run", [SMALL], indirect=True)
async def test_of_what_is_too_large_more_waits_for_its_client(run: Run) -> None:
    own = run.recording.read(is_own=True)
    running = asyncio.create_task(add_all(run, texts(1000)))
    await until(lambda: run.recording.is_full, "no more to be wanted")
    assert not running.done()
    assert run.recording.held_bytes <= HIGH_WATER_BYTES + 1000

    reading = asyncio.create_task(read_all(own))
    body = await running
    run.recording.complete("ok")
    assert await reading == body


@pytest.mark.parametrize("run", [SMALL], indirect=True)
async def test_of_what_is_too_large_nothing_waits_for_a_client_that_left(
    run: Run,
) -> None:
    own = run.recording.read(is_own=True)
    running = asyncio.create_task(add_all(run, texts(1000)))
    await until(lambda: run.recording.is_full, "no more to be wanted")
    own.close()

    await running
    assert run.recording.held_bytes <= HIGH_WATER_BYTES + 1000


async def test_who_lost_its_claim_records_no_more(run: Run) -> None:
    """Somebody else runs it by now, and that one's answer is kept."""
    await add_all(run, texts(40))
    await run.store.release(KEY, "run")
    await run.store.claim(KEY, "other")
    await run.recording.renew()
    await add_all(run, texts(40))

    assert not run.recording.is_written
    assert await run.end() == InFlight("other")


async def test_who_follows_elsewhere_is_heard_of_and_forgotten(run: Run) -> None:
    await run.recording.renew()
    assert not run.recording.is_followed
    await run.store.read(KEY, "run", 0)
    await run.recording.renew()
    assert run.recording.is_followed


@pytest.mark.parametrize("is_followed", [False, True])
async def test_what_its_client_has_is_kept_for_who_follows(
    run: Run, is_followed: bool
) -> None:
    body = await add_all(run, texts(3))
    if is_followed:
        await run.store.read(KEY, "run", 0)

    claim = await run.end("if_followed")

    assert isinstance(claim, Stored if is_followed else First)
    if is_followed:
        assert await run.kept() == body


@pytest.mark.parametrize(
    ("error", "api_key", "is_told"),
    [
        (UpstreamError("no"), "key-1", True),
        (UpstreamError("no"), "key-2", True),
        (GatewayError("a limit of key-1"), "key-1", True),
        (GatewayError("a limit of key-1"), "key-2", False),
    ],
)
async def test_a_limit_is_of_one_key_and_a_failure_of_all(
    run: Run, error: GatewayError, api_key: str, is_told: bool
) -> None:
    reader: LocalReader = run.recording.read()
    run.recording.close(error, "no")

    assert reader.error_for(api_key) is (error if is_told else None)


async def test_a_whole_answer_takes_one_step(run: Run) -> None:
    run.recording.whole(HEAD, b"x" * 2 * PIECE_BYTES, "ok")

    assert isinstance(await run.end(), Stored)
    assert await run.kept() == b"x" * 2 * PIECE_BYTES
    assert run.store.appends == 0


async def test_a_whole_answer_needs_no_claim(run: Run) -> None:
    """A store that lost it, and was heard to, keeps the answer all the same."""
    await run.store.release(KEY, "run")
    await run.recording.renew()
    run.recording.whole(HEAD, b"Hello", "ok")

    assert isinstance(await run.end(), Stored)
    assert await run.kept() == b"Hello"


@pytest.mark.parametrize("run", [SMALL], indirect=True)
async def test_a_whole_answer_that_is_too_large_is_not_kept(run: Run) -> None:
    run.recording.whole(HEAD, b"x" * (SMALL.max_answer_bytes + 1), "ok")

    assert await run.end() == First()


async def test_what_the_upstream_waits_for_is_written_at_once(run: Run) -> None:
    """Also the rest of a large piece, which by itself could wait for more to come."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    for _ in range(5):
        run.recording.add(b"x" * (HIGH_WATER_BYTES + 2 * PIECE_BYTES + 100))
        await run.recording.room()

    assert loop.time() - begun_s < WRITE_EVERY_S


async def test_who_waits_for_room_hears_that_the_claim_is_lost(run: Run) -> None:
    """By a renewal, while what could not be written waits to be tried again."""
    run.store.is_away = True
    run.recording.add(b"x" * 2 * PIECE_BYTES)
    await until(lambda: run.store.appends == 1, "a write in vain")
    await run.at_rest()
    run.recording.add(b"y" * HIGH_WATER_BYTES)
    waiting = asyncio.create_task(run.recording.room())
    await asyncio.sleep(0)
    run.store.is_away = False
    await run.store.release(KEY, "run")

    await run.recording.renew()

    async with asyncio.timeout(5):
        await waiting


async def test_a_key_is_given_back_though_its_end_found_it_full(run: Run) -> None:
    """When its client has read what is only in the store, or has left."""
    own = run.recording.read(is_own=True)
    await add_all(run, texts(100))
    run.recording.add(b"x" * 2 * HIGH_WATER_BYTES)
    run.recording.complete("upstream_error")
    run.recording.close(None, "no")
    await asyncio.sleep(0)
    own.close()

    await run.at_rest()
    assert await run.store.claim(KEY, "next") == First()


async def test_its_own_client_is_no_follower_however_far_it_lags(run: Run) -> None:
    """Or what it left would run on for itself."""
    own = run.recording.read(is_own=True)
    await add_all(run, texts(200))
    await own.next()

    await run.recording.renew()

    assert not run.recording.is_followed
