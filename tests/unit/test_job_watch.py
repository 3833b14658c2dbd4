"""How the long jobs of all replicas stand: read, shown, and forgotten when old."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, get_args

import pytest

from gateway.background import watching
from gateway.background.caller import Caller
from gateway.background.watching import MOST_READ, READ_TOGETHER, JobWatch
from gateway.batches.inbox import Taken
from gateway.batches.keeping import BatchBook
from gateway.batches.record import BatchRecord, Counts
from gateway.batches.record import Status as BatchStatus
from gateway.fine_tuning.keeping import TuneBook
from gateway.fine_tuning.record import Status as TuneStatus
from gateway.fine_tuning.record import TuneRecord
from gateway.telemetry.exposition import snapshot_of
from gateway.telemetry.job_metrics import SHOWN_S, JobSight, Live
from gateway.telemetry.merging import merge
from gateway.telemetry.metrics import Telemetry
from gateway.webhooks.incoming import Reason
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobsUnavailable, Kept, RecordName
from tests.gateway_under_test import until

NOW_S: Final = 1_795_780_800
CALLER: Final = Caller("acme", "open")


class CountingJobs(MemoryJobs):
    """Notes how many records are read at a time, and fails when told to."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW_S * 1000)
        self.reads = 0
        self.most_together = 0
        self._together = 0
        self.looks = 0
        self.trouble: Exception | None = None

    async def read(self, name: RecordName) -> Kept | None:
        self.reads += 1
        self._together += 1
        self.most_together = max(self.most_together, self._together)
        await asyncio.sleep(0)
        self._together -= 1
        return await super().read(name)

    async def scheduled(self, queue: str, *, most: int) -> Sequence[str]:
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        return await super().scheduled(queue, most=most)


def batch(
    number: int, status: BatchStatus, age_s: int = 0, **counts: int
) -> BatchRecord:
    return BatchRecord(
        id=f"batch_{number:04}",
        caller=CALLER,
        endpoint="/v1/chat/completions",
        input_file_id="file-1",
        created_at=NOW_S - age_s,
        expires_at=NOW_S + 86_400,
        status=status,
        counts=Counts(**counts),
    )


def tune(number: int, status: TuneStatus, age_s: int = 0) -> TuneRecord:
    return TuneRecord(
        id=f"ftjob_{number}",
        caller=CALLER,
        model="m",
        training_file="file-1",
        created_at=NOW_S - age_s,
        status=status,
    )


@pytest.fixture
def jobs() -> CountingJobs:
    return CountingJobs()


async def seen(jobs: CountingJobs) -> JobSight:
    return await JobWatch(jobs, lambda _: None, now_s=lambda: float(NOW_S)).read()


async def test_jobs_are_told_by_their_state_with_the_age_of_the_oldest(
    jobs: CountingJobs,
) -> None:
    """Those that have ended are work until somebody looked, and are none of them."""
    for each in (
        batch(1, "in_progress", age_s=60, total=10, completed=3, failed=1),
        batch(2, "in_progress", age_s=600, total=5),
        batch(3, "finalizing", total=7, completed=7),
        batch(4, "completed", age_s=9000, total=9),
    ):
        await BatchBook(jobs).add(each)
    await TuneBook(jobs).add(tune(1, "running", age_s=3600))

    sight = await seen(jobs)

    assert sight.live["batches", "in_progress"] == Live(2, 600.0)
    assert sight.live["batches", "finalizing"] == Live(1, 0.0)
    assert sight.live["batches", "validating"] == Live()
    assert sight.live["fine_tunes", "running"] == Live(1, 3600.0)
    assert {state for _, state in sight.live}.isdisjoint({"completed", "succeeded"})
    assert sight.lines_waiting == 6 + 5
    assert sight.queues["batches"].items == 4


async def test_however_many_jobs_there_are_a_reading_is_bounded(
    jobs: CountingJobs,
) -> None:
    """Of those beyond the bound their number is told, and never more at once."""
    for number in range(MOST_READ + 20):
        await BatchBook(jobs).add(batch(number, "in_progress"))

    sight = await seen(jobs)

    assert jobs.reads == MOST_READ
    assert jobs.most_together == READ_TOGETHER
    assert sight.live["batches", "in_progress"].count == MOST_READ
    assert sight.live["batches", watching.UNREAD].count == 20


@pytest.mark.parametrize("trouble", [JobsUnavailable(), ValueError("no record")])
async def test_no_trouble_ends_a_watch(jobs: CountingJobs, trouble: Exception) -> None:
    """Its readings are left out, and come again when it is over."""
    shown: list[JobSight] = []
    jobs.trouble = trouble
    watch = JobWatch(jobs, shown.append, read_every_s=0.001)
    task = asyncio.create_task(watch.run())
    try:
        await until(lambda: jobs.looks > 1, "a second try")
        assert shown == []
        jobs.trouble = None
        await until(lambda: len(shown) > 1, "two readings")
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_figures_that_are_old_are_not_shown(jobs: CountingJobs) -> None:
    """Whoever cannot read does not say how things stood a minute ago."""
    now_s = [0.0]
    telemetry = Telemetry(now_s=lambda: now_s[0])
    await BatchBook(jobs).add(batch(1, "in_progress"))
    line = 'llmtune_gateway_live_jobs{kind="batches",state="in_progress"} 1.0'
    telemetry.jobs.show(await seen(jobs))

    now_s[0] = SHOWN_S
    assert line in telemetry.exposition("")[0].decode()
    now_s[0] = SHOWN_S + 0.1
    text = telemetry.exposition("")[0].decode()
    assert not [each for each in text.splitlines() if each.startswith(line[:26])]


async def test_what_all_workers_show_is_not_added_up(jobs: CountingJobs) -> None:
    """Each of them has read the same."""
    await BatchBook(jobs).add(batch(1, "in_progress", total=10))
    workers = [Telemetry() for _ in range(3)]
    for each in workers:
        each.jobs.show(await seen(jobs))

    merged = merge(snapshot_of(each.registry.collect()) for each in workers)

    values = {
        (point.name, *point.labels.values()): point.value
        for family in merged
        for point in family.points
    }
    prefix = "llmtune_gateway_"
    assert values[f"{prefix}live_jobs", "batches", "in_progress"] == 1
    assert values[f"{prefix}batch_lines_waiting",] == 10
    assert values[f"{prefix}work_due", "batches"] == 1


def test_webhooks_are_counted_from_nought_by_every_outcome() -> None:
    """A rate does not see the first increase of a new series."""
    text = Telemetry().exposition("")[0].decode()

    for outcome in (*get_args(Taken), *get_args(Reason)):
        assert f'llmtune_gateway_webhooks_total{{outcome="{outcome}"}} 0.0' in text
