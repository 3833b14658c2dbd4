"""A store that fails at any one step costs a batch nothing but time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain, count
from typing import Any, Final, Literal

import msgspec
import pytest

from gateway.background.caller import Caller, principal_of
from gateway.background.starting import item_of
from gateway.batches.chunks import COLLECTED_MS, MADE, SENT, collection_of
from gateway.batches.driving import drive
from gateway.batches.lines import Item, parse_of
from gateway.batches.parts import BatchParts
from gateway.batches.planning import Chunk, once
from gateway.batches.record import KIND, BatchRecord, OpenChunk, encode_batch
from gateway.batches.results import UpstreamResult, answered, encode
from gateway.batches.single_lines import SingleLines
from gateway.demands import asked
from gateway.files.service import folder_of
from gateway.long_jobs import LongJobs
from gateway.translation.usage import TokenUsage
from policies.jobs.port import JobStore, JobsUnavailable, RecordName
from policies.ledger import Usage
from tests.batches.conftest import (
    ENDPOINT,
    ENDS_WITHIN_S,
    BatchHouse,
    Json,
    StartHouse,
    ids_of,
    jsonl,
    line,
)
from tests.gateway_under_test import MODEL
from tests.proofs.check import until
from tests.redis_servers import FakeClock, RedisServer

When = Literal["before", "after"]
WORKSPACE: Final = "ws-metered"
PLAN: Final = "plan: metered\nquotas: [{of: requests, limit: 999, per: month}]\n"
PARSE: Final = parse_of(ENDPOINT, "auto", "both")
LINES: Final = [
    *(line(f"plain-{number}") for number in range(2)),
    *(line(f"single-{number}", max_tokens=5) for number in range(2)),
]


class FailingOnce:
    """A store that fails at one of its calls: before it did it, or after."""

    def __init__(self, jobs: JobStore, at: int, when: When) -> None:
        self._jobs = jobs
        self._at = at
        self._when = when
        self.calls = 0

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(self._jobs, name)

        async def failing(*args: Any, **named: Any) -> Any:
            self.calls += 1
            is_it = self.calls == self._at
            if is_it and self._when == "before":
                raise JobsUnavailable
            done = await call(*args, **named)
            if is_it:
                raise JobsUnavailable
            return done

        return failing


def with_store(long_jobs: LongJobs, jobs: Any) -> BatchParts:
    """The parts of another replica, with the same storage and another store."""
    around = msgspec.structs.replace(long_jobs.around, jobs=jobs)
    return LongJobs(around, long_jobs.storage).parts


async def kept(
    house: BatchHouse, parts: BatchParts, lines: Sequence[Json] = LINES
) -> str:
    """A batch that nobody has been told to drive."""
    file_id = (await house.upload(jsonl(list(lines)), "metered")).json()["id"]
    record = BatchRecord(
        id="batch_of_the_test",
        caller=Caller(WORKSPACE, "metered"),
        endpoint=ENDPOINT,
        input_file_id=file_id,
        created_at=int(parts.now_s()),
        expires_at=int(parts.now_s()) + 3600,
    )
    name = RecordName(WORKSPACE, KIND, record.id)
    await parts.jobs.create(name, encode_batch(record), 3_600_000)
    return record.id


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("first", range(1, 10))
async def test_any_one_failure_loses_and_doubles_nothing(
    start_house: StartHouse, first: int, when: When
) -> None:
    """From each of the first nine calls on; then ever later, so that it gets on."""
    house = await start_house({"metered": PLAN})
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    batch_id = await kept(house, long_jobs.parts)

    async with asyncio.timeout(ENDS_WITHIN_S):
        for at in chain([first], count(9)):
            failing = FailingOnce(long_jobs.jobs, at, when)
            if await is_driven(with_store(long_jobs, failing), batch_id):
                break

    ended = await house.ended(batch_id, "metered")
    assert {"total": 4, "completed": 4, "failed": 0} == ended["request_counts"]
    results = await house.results(ended, "metered")
    assert sorted(ids_of(LINES)) == sorted(ids_of(results))
    assert {"requests-per-calendar-month": 4} == await house.gateway.used("metered")


async def is_driven(parts: BatchParts, batch_id: str) -> bool:
    """Whether it could be driven to its end before a call failed."""

    async def is_over() -> bool:
        return (
            await drive(parts, item_of(RecordName(WORKSPACE, KIND, batch_id))) is None
        )

    try:
        await until(is_over, "the batch", within_s=ENDS_WITHIN_S)
    except JobsUnavailable:
        return False
    return True


class FailingToSave(FailingOnce):
    """A store that fails before it saves a batch for the `at`th time."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        if name == "replace":
            return super().__getattr__(name)
        call: Callable[..., Awaitable[Any]] = getattr(self._jobs, name)
        return call


async def test_what_was_told_as_not_run_stays_so(start_house: StartHouse) -> None:
    """Its replica dies over that, and the answers come before the next one looks."""
    house = await start_house(knobs={"batch_ms": 60_000})
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    started = await house.start([line(str(number)) for number in range(3)])
    await house.becomes(started["id"], ("in_progress",))
    await house.llmtune.wait_until(lambda stats: bool(stats.requests))
    item = item_of(RecordName("ws-open", KIND, started["id"]))

    def late(jobs: Any) -> BatchParts:
        expired_s = started["expires_at"] + 1
        parts = with_store(long_jobs, jobs)
        return msgspec.structs.replace(parts, now_s=lambda: expired_s)

    # It notes that results are missing, and that it is too late for them, and dies when
    # it has written so.
    with pytest.raises(JobsUnavailable):
        await drive(late(FailingToSave(long_jobs.jobs, 3, "before")), item)
    answers = {
        str(place): SENT + encode(UpstreamResult(place, text="Hello", tokens=3))
        for place in range(3)
    }
    name = collection_of(started["id"], 0)
    await long_jobs.jobs.collect("ws-open", name, answers, COLLECTED_MS)
    assert await drive(late(long_jobs.jobs), item) is None

    ended = await house.show(started["id"])
    assert ("expired", 3) == (ended["status"], ended["request_counts"]["failed"])
    assert ["0", "1", "2"] == sorted(ids_of(await house.results(ended)))


async def test_a_batch_that_nobody_can_drive_ends_with_its_day(
    start_house: StartHouse,
) -> None:
    """Whatever it is that fails each time."""
    house = await start_house(knobs={"batch_ms": 60_000})
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    started = await house.start([line("a")])
    await house.becomes(started["id"], ("in_progress",))
    async for key in long_jobs.storage.list("batches"):
        await long_jobs.storage.put(key, once(b"spoilt"))
    tomorrow_s = started["expires_at"] + 1
    parts = msgspec.structs.replace(long_jobs.parts, now_s=lambda: tomorrow_s)

    assert await drive(parts, f"ws-open {started['id']}") is None

    ended = await house.show(started["id"])
    assert "internal_error" == ended["errors"]["data"][0]["code"]


class Away(FailingOnce):
    """A store that takes no result for a while."""

    async def collect(self, *args: Any, **named: Any) -> int:
        self.calls += 1
        if self.calls <= self._at:
            raise JobsUnavailable
        new: int = await self._jobs.collect(*args, **named)
        return new

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        call: Callable[..., Awaitable[Any]] = getattr(self._jobs, name)
        return call


async def test_an_answer_outlasts_a_store_that_is_away(
    start_house: StartHouse,
) -> None:
    """It is offered again, and LLMTune is not asked again."""
    house = await start_house({"metered": PLAN})
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    batch_id = await kept(house, long_jobs.parts, LINES[2:])

    away = Away(long_jobs.jobs, 4, "before")
    assert await is_driven(with_store(long_jobs, away), batch_id)

    assert 2 == sum(house.llmtune.stats.requests.values())
    assert {"requests-per-calendar-month": 2} == await house.gateway.used("metered")


async def test_an_answer_that_was_kept_is_charged_by_who_finds_it(
    start_house: StartHouse,
) -> None:
    """Its replica died between the two; what it reserved is not the charge."""
    plan = "plan: metered\nquotas: [{of: tokens, limit: 9999, per: month}]\n"
    house = await start_house({"metered": plan})
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    parts = long_jobs.parts
    name = RecordName(WORKSPACE, KIND, await kept(house, parts, LINES[2:3]))
    held = await parts.book.find(WORKSPACE, name.record_id)
    assert held is not None
    principal = principal_of(parts.authenticator, held.record.caller)
    assert principal is not None
    await house.gateway.ledger.admit(asked(principal, Usage(1, 500), "line.0"))
    item = Item(1, "single-0", msgspec.Raw(b"{}"))
    outcome = answered(item, b"{}", TokenUsage(3, 4, is_reported=True), "line.0")
    lines = SingleLines(parts, held, principal, PARSE, "batches/x")
    chunk = OpenChunk(0, "singly", 1, 500, 1, owner="dead")

    for _ in range(2):
        await lines.look_after(
            chunk, Chunk(MODEL, "singly", 500, (item,)), {0: MADE + encode(outcome)}
        )

    assert {"tokens-per-calendar-month": 7} == await house.gateway.used("metered")


async def test_lines_that_were_cut_off_cost_what_they_are_answered_with(
    start_house: StartHouse,
) -> None:
    """A replica that is stopped in order gives back what it had begun."""
    plan = """
plan: metered
quotas:
  - {of: requests, limit: 999, per: month}
  - {of: tokens, limit: 99999, per: month}
"""
    house = await start_house({"metered": plan}, knobs={"tokens_per_second": 50})
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    batch_id = await kept(house, long_jobs.parts, LINES[2:])
    item = item_of(RecordName(WORKSPACE, KIND, batch_id))
    stopped = asyncio.create_task(drive(long_jobs.parts, item))
    await house.llmtune.wait_until(lambda stats: stats.open == 2)
    stopped.cancel()
    await asyncio.wait([stopped])

    assert await is_driven(long_jobs.parts, batch_id)

    ended = await house.show(batch_id, "metered")
    assert {
        "requests-per-calendar-month": 2,
        "tokens-per-calendar-month": ended["usage"]["total_tokens"],
    } == await house.gateway.used("metered")


async def test_a_chunk_is_charged_once_however_late_it_is_taken_over(
    start_house: StartHouse, timed_redis: RedisServer, redis_clock: FakeClock
) -> None:
    """Long after the ledger has forgotten what it settled."""
    house = await start_house(
        {"metered": PLAN}, knobs={"batch_ms": 60_000}, store_url=timed_redis.url
    )
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    batch_id = await kept(house, long_jobs.parts, LINES[:2])
    item = item_of(RecordName(WORKSPACE, KIND, batch_id))
    assert await drive(long_jobs.parts, item) is not None
    answers = {
        str(place): SENT + encode(UpstreamResult(place, text="Hello", tokens=3))
        for place in range(2)
    }
    name = collection_of(batch_id, 0)
    await long_jobs.jobs.collect(WORKSPACE, name, answers, COLLECTED_MS)

    for _ in range(2):
        dying = with_store(long_jobs, FailingToSave(long_jobs.jobs, 1, "before"))
        with pytest.raises(JobsUnavailable):
            await drive(dying, item)
        redis_clock.advance(600_000)
    assert await drive(long_jobs.parts, item) is None

    assert {"requests-per-calendar-month": 2} == await house.gateway.used("metered")


async def test_what_an_ended_batch_has_left_is_swept_by_the_next(
    house: BatchHouse,
) -> None:
    """Its driver died after it had saved the end, and before it had told of it."""
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    started = await house.start([line("a")])
    await house.ended(started["id"])
    book = long_jobs.parts.book

    async def is_untold() -> bool:
        held = await book.find("ws-open", started["id"])
        assert held is not None
        was_told, held.record.is_told = held.record.is_told, False
        if was_told:
            await book.save(held)
        return was_told

    await until(is_untold, "the last save", within_s=ENDS_WITHIN_S)
    left = f"batches/{folder_of('ws-open')}/{started['id']}/out-00000"
    await long_jobs.storage.put(left, once(b"left"))

    item = item_of(RecordName("ws-open", KIND, started["id"]))
    assert await drive(long_jobs.parts, item) is None

    assert await long_jobs.storage.size(left) is None
