"""What a batch begins fits into its plan beside everything else, and it waits well."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.batches.driving import drive
from gateway.batches.enqueued import Enqueued, UnderWay
from gateway.batches.keeping import BatchBook
from gateway.long_jobs import LongJobs
from gateway.simulator.faults import FaultDraw, FaultKind
from policies.keyring import digest_of
from tests.batches.conftest import ENDS_WITHIN_S, BatchHouse, StartHouse, line
from tests.proofs.check import until

BATCH_ROUTE = "/v1/batch/inference"


def long_jobs_of(house: BatchHouse) -> LongJobs:
    long_jobs = house.gateway.gateway.long_jobs
    assert long_jobs is not None
    return long_jobs


def book_of(house: BatchHouse) -> BatchBook:
    return long_jobs_of(house).parts.book


async def until_used(house: BatchHouse, plan: str, dimension: str, count: int) -> None:
    async def is_used() -> bool:
        return (await house.gateway.used(plan))[dimension] >= count

    await until(is_used, f"{count} {dimension}", within_s=ENDS_WITHIN_S)


def looks(house: BatchHouse) -> float:
    """How often a batch was looked at that goes on."""
    registry, labels = house.gateway.gateway.telemetry.registry, {"kind": "batches"}
    found = registry.get_sample_value(
        "llmtune_gateway_work_total", {**labels, "outcome": "again"}
    )
    return found or 0.0


async def cancelled(house: BatchHouse, batch_id: str, plan: str) -> dict[str, int]:
    """The counts of a batch that was ended now."""
    await house.gateway.post(f"/v1/batches/{batch_id}/cancel", plan)
    counts: dict[str, int] = (await house.ended(batch_id, plan))["request_counts"]
    return counts


class TestBudgets:
    """A batch spends what is left of a budget, and no more."""

    async def test_a_budget_smaller_than_a_chunk_is_kept(
        self, start_house: StartHouse
    ) -> None:
        """Each line has to find room in it."""
        plan = "plan: small\nquotas: [{of: requests, limit: 20, per: month}]\n"
        house = await start_house({"small": plan})

        started = await house.start([line(str(n)) for n in range(100)], "small")
        await until_used(house, "small", "requests-per-calendar-month", 20)
        counts = await cancelled(house, started["id"], "small")

        assert {"total": 100, "completed": 20, "failed": 80} == counts
        used = await house.gateway.used("small")
        assert {"requests-per-calendar-month": 20} == used

    async def test_chunks_under_way_count_before_they_are_charged(
        self, start_house: StartHouse
    ) -> None:
        """Of two batches, too: what is left for one is not begun by eight."""
        plan = "plan: some\nquotas: [{of: requests, limit: 250, per: month}]\n"
        house = await start_house({"some": plan}, knobs={"batch_ms": 60_000})

        batches = [
            await house.start([line(f"{batch}-{n}") for n in range(300)], "some")
            for batch in "ab"
        ]
        for batch in batches:
            await house.becomes(batch["id"], ("in_progress",), "some")
        sent = house.llmtune.stats.requests

        async def is_looked_at(times: float) -> bool:
            return sent[BATCH_ROUTE] >= 2 and looks(house) >= times

        await until(lambda: is_looked_at(0), "two chunks", within_s=ENDS_WITHIN_S)
        # Each is looked at again, and finds no room.
        often = looks(house) + 4
        await until(lambda: is_looked_at(often), "looks", within_s=ENDS_WITHIN_S)

        assert 2 == sent[BATCH_ROUTE]


class TestWaiting:
    """A line that finds no room is no rejection, and waits as long as it has to."""

    async def test_a_line_that_waits_is_not_counted_as_rejected(
        self, start_house: StartHouse
    ) -> None:
        plan = "plan: small\nquotas: [{of: requests, limit: 3, per: month}]\n"
        house = await start_house({"small": plan})
        lines = [line(str(n), max_tokens=5) for n in range(5)]

        started = await house.start(lines, "small")
        await until_used(house, "small", "requests-per-calendar-month", 3)
        parts = long_jobs_of(house).parts

        async def waits_for_long() -> bool:
            # Unless its worker looks at it just now.
            wait_ms = await drive(parts, f"ws-small {started['id']}")
            return wait_ms is not None and wait_ms >= 55_000

        await until(waits_for_long, "a long wait", within_s=ENDS_WITHIN_S)

        exposition = house.gateway.gateway.telemetry.exposition("")[0].decode()
        assert "\nllmtune_gateway_rejections_total{" not in exposition

    async def test_whoever_waits_for_a_month_is_cancelled_at_once(
        self, start_house: StartHouse
    ) -> None:
        plan = "plan: small\nquotas: [{of: requests, limit: 1, per: month}]\n"
        house = await start_house({"small": plan})
        lines = [line(str(n), max_tokens=5) for n in range(2)]
        started = await house.start(lines, "small")
        await until_used(house, "small", "requests-per-calendar-month", 1)

        began_s = time.monotonic()
        counts = await cancelled(house, started["id"], "small")

        assert {"total": 2, "completed": 1, "failed": 1} == counts
        assert time.monotonic() - began_s < 10

    async def test_what_llmtune_has_no_time_for_is_asked_again_later(
        self, start_house: StartHouse, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It has a day; a request that somebody waits for has seconds."""
        house = await start_house(
            knobs={"faults": {FaultKind.RATE_LIMIT: 1.0}, "retry_after_s": 1}
        )
        started = await house.start([line("a", max_tokens=5)])
        refused = house.llmtune.stats.faults

        async def is_refused_often() -> bool:
            return refused[FaultKind.RATE_LIMIT] >= 7

        await until(is_refused_often, "refusals", within_s=ENDS_WITHIN_S)
        house.llmtune.simulator._faults = FaultDraw({}, 0)
        ended = await house.ended(started["id"])

        assert {"total": 1, "completed": 1, "failed": 0} == ended["request_counts"]
        assert "work failed" not in caplog.text


async def test_what_an_ended_batch_holds_is_forgotten(start_house: StartHouse) -> None:
    """A driver that was late may note it when nobody looks after it any more."""
    plan = "plan: one\nbatch: {concurrent_batches: 1}\n"
    house = await start_house({"one": plan})
    ended = await house.start([line("a")], "one")
    await house.ended(ended["id"], "one")
    late = Enqueued(long_jobs_of(house).jobs)
    await late.set("ws-one", ended["id"], UnderWay(500, 1, 500))

    started = await house.start([line("b")], "one")

    assert "completed" == (await house.ended(started["id"], "one"))["status"]


@pytest.mark.parametrize("fields", [{}, {"max_tokens": 5}], ids=["together", "singly"])
async def test_a_keys_own_budget_counts_its_batches(
    start_house: StartHouse, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """And holds them: the rest waits, as for the plan's."""
    key = "llmtune_gw_test_key_of_open"
    narrowed = {
        "sha256": digest_of(key),
        "workspace": "ws-open",
        "plan": "open",
        "limits": {"quotas": [{"of": "requests", "limit": 5, "per": "month"}]},
    }
    keys_file = tmp_path / "narrowed.yaml"
    keys_file.write_bytes(msgspec.yaml.encode({"keys": [narrowed]}))
    house = await start_house(keys_file=keys_file)

    first = await house.start([line(str(n), **fields) for n in range(4)])
    await house.ended(first["id"])
    second = await house.start([line(str(n), **fields) for n in range(4)])
    await house.becomes(second["id"], ("in_progress",))

    said = (await house.gateway.get("/v1/limits")).json()["limits"]
    assert [("key-requests-per-calendar-month", 4)] == [
        (each["dimension"], each["used"]) for each in said
    ]
    assert {"total": 4, "completed": 0, "failed": 4} == await cancelled(
        house, second["id"], "open"
    )


async def test_a_suspended_workspace_runs_no_batch(start_house: StartHouse) -> None:
    """Neither together nor line by line, and no line fails: it may be let in again."""
    house = await start_house({"suspended": "plan: suspended\nconcurrency: 0\n"})

    started = await house.start(
        [line("together"), line("single", max_tokens=5)], "suspended"
    )
    await house.becomes(started["id"], ("in_progress",), "suspended")
    wait_ms = await drive(long_jobs_of(house).parts, f"ws-suspended {started['id']}")

    assert wait_ms is not None
    assert wait_ms >= 55_000
    assert not house.llmtune.stats.requests
    counts = await cancelled(house, started["id"], "suspended")
    assert {"total": 2, "completed": 0, "failed": 2} == counts
