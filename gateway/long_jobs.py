"""Files, batches, fine-tunes and webhooks put together: what needs nobody to wait."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from gateway.background.watching import JobWatch
from gateway.background.working import Drive, Worker
from gateway.batches.chunks import ChunkDesk
from gateway.batches.driving import drive as drive_batch
from gateway.batches.inbox import Inbox
from gateway.batches.keeping import QUEUE as BATCHES
from gateway.batches.keeping import BatchBook
from gateway.batches.pace import Pace
from gateway.batches.parts import BatchParts
from gateway.batches.record import BatchRecord
from gateway.batches.service import BatchService
from gateway.batches.singly import LineRunner
from gateway.batches.tickets import TicketOffice
from gateway.files.service import QUEUE as FILES
from gateway.files.service import FileService
from gateway.fine_tuning.driving import drive as drive_tune
from gateway.fine_tuning.keeping import QUEUE as TUNES
from gateway.fine_tuning.keeping import TuneBook
from gateway.fine_tuning.owners import Owners
from gateway.fine_tuning.parts import ReadJob, TuneParts
from gateway.fine_tuning.record import TuneRecord
from gateway.fine_tuning.service import TuneService
from gateway.fine_tuning.urls import TuneUrls
from gateway.presence import Attendance
from gateway.routes.batches import BatchRoutes
from gateway.routes.door import Door, Route
from gateway.routes.files import FileRoutes
from gateway.routes.fine_tuning import FineTuningRoutes
from gateway.routes.webhooks import WebhookRoutes
from gateway.settings import Settings
from gateway.storage.counting import CountedStorage
from gateway.storage.opening import open_storage
from gateway.storage.port import Storage, StorageUnavailable
from gateway.telemetry.job_metrics import WorkKind
from gateway.telemetry.metrics import Telemetry
from gateway.upstream.client import UpstreamClient
from gateway.upstream.lean_transport import default_trust
from gateway.webhooks.outbox import DEAD_QUEUE, Outbox
from gateway.webhooks.outbox import QUEUE as WEBHOOKS
from gateway.webhooks.relay import Publish, Relay
from policies.jobs.port import JobStore
from policies.store.resolver import Resolver

if TYPE_CHECKING:
    from gateway.admission import Admission
    from gateway.auth import Authenticator
    from gateway.completion import CompletionService
    from gateway.policy_files import PolicyFiles


logger = logging.getLogger(__name__)

# What is due there waited for a day.
SWEEP_EVERY_S: Final = 60.0
# Webhooks of one process under way at a time, a few of each receiver: with eight, two
# that never answer would keep all others waiting for a quarter of a minute each.
MAX_DELIVERIES: Final = 64


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What long jobs share with the requests of their process."""

    settings: Settings
    jobs: JobStore
    door: Door
    admission: Admission
    authenticator: Authenticator
    service: CompletionService
    upstream: UpstreamClient
    attendance: Attendance
    policy_files: PolicyFiles
    telemetry: Telemetry
    owners: Owners
    read_job: ReadJob


class LongJobs:
    """What outlives requests, of one process; there is none without a storage."""

    def __init__(
        self, around: Around, storage: Storage, folder: Path | None = None
    ) -> None:
        """`folder` is the storage's, where it ends with the process."""
        self._folder = folder
        settings = around.settings
        self.around = around
        self.jobs = around.jobs
        self._metrics = around.telemetry.jobs
        self._metrics.begin()
        storage = CountedStorage(storage, self._metrics.stored)
        self.storage: Storage = storage
        self.files = FileService(self.jobs, storage)
        self.urls = TuneUrls(settings.public_url, settings.webhook_secret)
        self._tickets = TicketOffice(settings.public_url, settings.webhook_secret)
        self._owner = uuid.uuid4().hex
        outbox = Outbox(self.jobs)
        self.relay = Relay(
            outbox,
            lambda: around.policy_files.webhooks,
            allowed=around.policy_files.allowed,
            trust=cache(default_trust),
            count=around.telemetry.webhook_told,
            lookup=Resolver().resolve,
        )
        self.parts = self._batch_parts()
        self._tunes = self._tune_parts()
        self._batcher = self._worker(BATCHES, partial(drive_batch, self.parts))
        self._tuner = self._worker(TUNES, partial(drive_tune, self._tunes))
        sweeper = self._worker(FILES, self.files.sweep, idle_s=SWEEP_EVERY_S)
        self._teller = self._worker(WEBHOOKS, self.relay.drive, together=MAX_DELIVERIES)
        clerk = self._worker(DEAD_QUEUE, outbox.look_at_dead, idle_s=SWEEP_EVERY_S)
        self._workers = (self._batcher, self._tuner, sweeper, self._teller, clerk)
        self._watch = JobWatch(self.jobs, self._metrics.show)

    def _worker(self, queue: WorkKind, drive: Drive, **bounds: Any) -> Worker:
        count = partial(self._metrics.worked, queue)
        return Worker(self.jobs, queue, self._owner, drive, count=count, **bounds)

    def _batch_ended(self, record: BatchRecord) -> None:
        duration_s = record.ended_at - record.created_at
        self._metrics.batch_ended(record.status, duration_s)

    def _batch_parts(self) -> BatchParts:
        around, tickets = self.around, self._tickets
        pace = Pace(lambda: around.attendance.added_total)
        desk = ChunkDesk(
            jobs=self.jobs,
            storage=self.storage,
            upstream=around.upstream,
            tickets=tickets,
            pace=pace,
            count_sent=self._metrics.chunk_sent,
        )
        return BatchParts(
            settings=around.settings,
            jobs=self.jobs,
            book=BatchBook(self.jobs, self._batch_ended),
            files=self.files,
            desk=desk,
            tickets=tickets,
            runner=LineRunner(around.service, around.admission),
            admission=around.admission,
            authenticator=around.authenticator,
            owner=self._owner,
            pace=pace,
            count_lines=around.telemetry.batch_lines_written,
            is_anothers=around.owners.is_anothers,
            ended=partial(tell_of_batch, self.relay.publish),
        )

    def _tune_parts(self) -> TuneParts:
        around = self.around
        return TuneParts(
            book=TuneBook(self.jobs),
            files=self.files,
            owners=around.owners,
            urls=self.urls,
            upstream=around.upstream,
            read_job=around.read_job,
            authenticator=around.authenticator,
            poll_s=around.settings.fine_tune_poll_s,
            ended=partial(tell_of_tune, self.relay.publish),
        )

    def nudge(self) -> None:
        """Something has come that may be anybody's."""
        self._batcher.nudge()
        self._tuner.nudge()
        self._teller.nudge()

    def routes(self) -> list[Route]:
        """Files, batches, fine-tunes, and where LLMTune tells of them."""
        around = self.around
        door, settings = around.door, around.settings
        nudge = self._batcher.nudge
        batches = BatchService(
            self.parts.book, self.files, around.authenticator, nudge=nudge
        )
        tunes = TuneService(self._tunes, around.admission, nudge=self._tuner.nudge)
        groups = (
            FileRoutes(
                door,
                self.files,
                urls=self.urls,
                attendance=around.attendance,
                max_bytes=settings.file_max_bytes,
            ),
            BatchRoutes(door, batches),
            FineTuningRoutes(door, tunes),
            WebhookRoutes(
                door,
                Inbox(self.jobs, self.parts.book, self._tunes.book, self.relay.publish),
                self._tickets,
                self.urls,
                settings=settings,
                telemetry=around.telemetry,
                nudge=self.nudge,
            ),
        )
        return [route for group in groups for route in group.routes()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work off what is due, until the end; then another replica may at once."""
        running = (*self._workers, self._watch)
        tasks = [asyncio.create_task(each.run()) for each in running]
        if self._folder is None:
            tasks.append(asyncio.create_task(self._try_storage()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.storage.aclose()
            if self._folder is not None:
                await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _try_storage(self) -> None:
        """Say at the start what would otherwise fail the first upload."""
        try:
            await self.storage.check()
        except StorageUnavailable as error:
            logger.error("files cannot be kept: %s", error)


async def tell_of_batch(publish: Publish, record: BatchRecord) -> None:
    """What OpenAI tells of a batch that ended."""
    workspace, ended_s = record.caller.workspace, record.ended_at
    event_id = f"{record.id}_{record.status}"
    kind = f"batch.{record.status}"
    await publish(workspace, event_id, kind, {"id": record.id}, ended_s)


async def tell_of_tune(publish: Publish, record: TuneRecord) -> None:
    """What OpenAI tells of a fine-tune that ended."""
    workspace, event_id = record.caller.workspace, f"{record.id}_{record.status}"
    kind = f"fine_tuning.job.{record.status}"
    await publish(workspace, event_id, kind, {"id": record.id}, record.finished_at)


def open_long_jobs(around: Around) -> LongJobs | None:
    """
    Those of a process; None where nobody said where files of all replicas are.

    A gateway that forgets everything when it ends has a folder that ends with it.
    """
    settings = around.settings
    if settings.storage_url is not None:
        return LongJobs(around, open_storage(settings.storage_url))
    if settings.store_url != "memory://":
        return None
    folder = Path(tempfile.gettempdir()) / f"llmtune-gateway-{uuid.uuid4().hex}"
    return LongJobs(around, open_storage(folder.as_uri()), folder)
