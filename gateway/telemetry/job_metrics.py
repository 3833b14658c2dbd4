"""
What operators see of long jobs: how all of them stand, and what this process does.

The former was read from the store by somebody else and is shown until it is old; the
latter is counted here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeAlias, get_args

import msgspec
from prometheus_client import CollectorRegistry

from gateway.background.working import Outcome as WorkOutcome
from gateway.storage.counting import Call as StorageCall
from gateway.storage.counting import Outcome as StorageOutcome
from gateway.telemetry import definitions as d
from gateway.telemetry.definition import Definition
from gateway.telemetry.instruments import Counter, Followed, Histogram, Reading
from policies.jobs.port import Standing

# Older figures are not shown: several readings were missed, and a store that is away
# has an alert of its own.
SHOWN_S: Final = 30.0

JobKind: TypeAlias = Literal["batches", "fine_tunes"]
WorkKind: TypeAlias = Literal[
    "batches", "fine_tunes", "webhooks", "files", "dead_letters"
]


# Whose items are which deliveries.
_OUTBOX: Final[Mapping[WorkKind, str]] = {"webhooks": "pending", "dead_letters": "dead"}


class Live(msgspec.Struct, frozen=True):
    """Jobs of one kind and state: how many, and how old the oldest is."""

    count: int = 0
    oldest_s: float = 0.0


class JobSight(msgspec.Struct, frozen=True, kw_only=True):
    """How the long jobs of all replicas stood at one moment."""

    queues: Mapping[WorkKind, Standing]
    live: Mapping[tuple[JobKind, str], Live]
    lines_waiting: int


class JobMetrics:
    """The metrics of long jobs; those of a gateway without any stay at nought."""

    def __init__(
        self,
        registry: CollectorRegistry,
        followed: Followed,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now_s = now_s
        self._seen: tuple[float, JobSight] | None = None
        self._work = _counter(d.WORK, registry)
        self._storage = _counter(d.STORAGE_CALLS, registry)
        self._chunks = _counter(d.BATCH_CHUNKS_SENT, registry)
        self._duration = Histogram(
            d.BATCH_DURATION.name,
            d.BATCH_DURATION.text,
            d.BATCH_DURATION.labels,
            buckets=d.BATCH_DURATION.buckets,
            registry=registry,
        )
        followed.add(d.LIVE_JOBS, self._live)
        followed.add(d.LIVE_JOBS_OLDEST, self._oldest)
        followed.add(d.BATCH_LINES_WAITING, self._lines_waiting)
        followed.add(d.WEBHOOK_OUTBOX, self._outbox)
        followed.add(d.WORK_DUE, self._due)
        followed.add(d.WORK_OVERDUE, self._overdue)

    def begin(self) -> None:
        """There are long jobs: show each series before its first increase."""
        for kind in get_args(WorkKind):
            for outcome in get_args(WorkOutcome):
                self._work.add(0, kind, outcome)
        for sending in ("first", "again"):
            self._chunks.add(0, sending)
        for call in get_args(StorageCall):
            for outcome in get_args(StorageOutcome):
                self._storage.add(0, call, outcome)

    def worked(self, kind: WorkKind, outcome: WorkOutcome) -> None:
        self._work.inc(kind, outcome)

    def stored(self, call: StorageCall, outcome: StorageOutcome) -> None:
        self._storage.inc(call, outcome)

    def chunk_sent(self, sending: str) -> None:
        self._chunks.inc(sending)

    def batch_ended(self, outcome: str, duration_s: float) -> None:
        # The clocks of who made it and who ended it may differ.
        self._duration.observe(max(duration_s, 0.0), outcome)

    def show(self, sight: JobSight) -> None:
        """What was read of all jobs just now."""
        self._seen = self._now_s(), sight

    @property
    def _sight(self) -> JobSight | None:
        if self._seen is None or self._now_s() - self._seen[0] > SHOWN_S:
            return None
        return self._seen[1]

    def _live(self) -> Iterable[Reading]:
        live = {} if self._sight is None else self._sight.live
        return [(labels, each.count) for labels, each in live.items()]

    def _oldest(self) -> Iterable[Reading]:
        live = {} if self._sight is None else self._sight.live
        return [(labels, each.oldest_s) for labels, each in live.items()]

    def _lines_waiting(self) -> Iterable[Reading]:
        return [] if self._sight is None else [((), self._sight.lines_waiting)]

    def _outbox(self) -> Iterable[Reading]:
        queues = self._queues()
        return [
            ((state,), queues[kind].items)
            for kind, state in _OUTBOX.items()
            if kind in queues
        ]

    def _due(self) -> Iterable[Reading]:
        return [((kind,), each.due) for kind, each in self._queues().items()]

    def _overdue(self) -> Iterable[Reading]:
        return [
            ((kind,), each.overdue_ms / 1000) for kind, each in self._queues().items()
        ]

    def _queues(self) -> Mapping[WorkKind, Standing]:
        return {} if self._sight is None else self._sight.queues


def _counter(what: Definition, registry: CollectorRegistry) -> Counter:
    return Counter(what.family, what.text, what.labels, registry=registry)
