"""
The watch: reads how the long jobs of all replicas stand, every few seconds.

Each process reads for itself, so that what it shows does not hang on another's life.
What a reading costs is bounded, however many jobs there are.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, get_args

import msgspec

from gateway.batches.record import ENDED as BATCH_ENDED
from gateway.batches.record import KIND as BATCH
from gateway.batches.record import Counts
from gateway.batches.record import Status as BatchStatus
from gateway.fine_tuning.record import ENDED as TUNE_ENDED
from gateway.fine_tuning.record import KIND as TUNE
from gateway.fine_tuning.record import Status as TuneStatus
from gateway.telemetry.job_metrics import JobKind, JobSight, Live, WorkKind
from policies.jobs.port import JobStore, JobsUnavailable, RecordName

# On average; each process asks for seven things each time, and for each live job. At
# double, a scrape every 15 s would often be told the same twice.
READ_EVERY_S: Final = 5.0
# Whatever the store does: what is late is not shown.
READ_WITHIN_S: Final = 4.0
# Records of a kind that a reading looks at; of those beyond only their number is told.
MOST_READ: Final = 500
# At once: a fifth of what a caller's list may, since nobody waits for this.
READ_TOGETHER: Final = 20

# The state of jobs beyond those.
UNREAD: Final = "unread"
_BATCHES: Final[JobKind] = "batches"
# What a kind's records are called, and the states of one that has not ended.
LIVE: Final[dict[JobKind, tuple[str, tuple[str, ...]]]] = {
    _BATCHES: (BATCH, tuple(s for s in get_args(BatchStatus) if s not in BATCH_ENDED)),
    "fine_tunes": (
        TUNE,
        tuple(s for s in get_args(TuneStatus) if s not in TUNE_ENDED),
    ),
}


class _Job(msgspec.Struct, frozen=True):
    """Of a batch or a fine-tune, what is looked at."""

    status: str
    created_at: int
    counts: Counts = msgspec.field(default_factory=Counts)

    @property
    def lines_waiting(self) -> int:
        counts = self.counts
        return counts.total - counts.completed - counts.failed


_decode: Final = msgspec.json.Decoder(_Job).decode

logger = logging.getLogger(__name__)


class JobWatch:
    """Reads again and again, and says what it saw."""

    def __init__(
        self,
        jobs: JobStore,
        show: Callable[[JobSight], None],
        *,
        now_s: Callable[[], float] = time.time,
        read_every_s: float = READ_EVERY_S,
        read_within_s: float = READ_WITHIN_S,
    ) -> None:
        self._jobs = jobs
        self._show = show
        self._now_s = now_s
        self._read_every_s = read_every_s
        self._read_within_s = read_within_s
        # Its own: the module's is anybody's to seed.
        self._random = random.Random()  # noqa: S311 - spreads, guards nothing

    async def run(self) -> None:
        """Until cancelled; a reading that fails is left out."""
        while True:
            await self._read_and_show()
            # Replicas that were started together do not ask together.
            await asyncio.sleep(self._read_every_s * (0.5 + self._random.random()))

    async def _read_and_show(self) -> None:
        try:
            async with asyncio.timeout(self._read_within_s):
                self._show(await self.read())
        except (JobsUnavailable, TimeoutError):
            # Its own alert tells of the store; what was read before grows old.
            return
        except Exception:
            # Whatever a record is: alerts must not be blind for as long as we live.
            logger.exception("how long jobs stand could not be read")

    async def read(self) -> JobSight:
        """How everything stands now; JobsUnavailable."""
        kinds: tuple[WorkKind, ...] = get_args(WorkKind)
        queues = {kind: await self._jobs.standing(kind) for kind in kinds}
        live: dict[tuple[JobKind, str], Live] = {}
        lines_waiting = 0
        for kind, (record_kind, states) in LIVE.items():
            items = await self._jobs.scheduled(kind, most=MOST_READ)
            read = await self._records(record_kind, items)
            of_state = defaultdict[str, list[_Job]](list)
            for job in read:
                of_state[job.status].append(job)
            # An ended one is work until somebody has seen that it has ended.
            live |= {(kind, each): self._live(of_state[each]) for each in states}
            live[kind, UNREAD] = Live(max(0, queues[kind].items - len(items)))
            if kind == _BATCHES:
                jobs = [job for state in states for job in of_state[state]]
                lines_waiting = sum(job.lines_waiting for job in jobs)
        return JobSight(queues=queues, live=live, lines_waiting=lines_waiting)

    async def _records(self, kind: str, items: Sequence[str]) -> list[_Job]:
        found: list[_Job] = []
        for at in range(0, len(items), READ_TOGETHER):
            places = (each.partition(" ") for each in items[at : at + READ_TOGETHER])
            names = [RecordName(place[0], kind, place[2]) for place in places]
            read = await asyncio.gather(*map(self._jobs.read, names))
            found += [_decode(each.body) for each in read if each is not None]
        return found

    def _live(self, jobs: Iterable[_Job]) -> Live:
        created = [job.created_at for job in jobs]
        if not created:
            return Live()
        return Live(len(created), max(0.0, self._now_s() - min(created)))
