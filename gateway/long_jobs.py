"""Files, batches, fine-tunes and webhooks put together: what needs nobody to wait."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.background.working import Worker
from gateway.batches.chunks import ChunkDesk
from gateway.batches.driving import drive
from gateway.batches.inbox import Inbox
from gateway.batches.keeping import QUEUE, BatchBook
from gateway.batches.pace import Pace
from gateway.batches.parts import BatchParts
from gateway.batches.service import BatchService
from gateway.batches.singly import LineRunner
from gateway.batches.tickets import TicketOffice
from gateway.files.service import QUEUE as FILES
from gateway.files.service import FileService
from gateway.fine_tuning.driving import ReadJob, TuneParts
from gateway.fine_tuning.driving import drive as drive_tune
from gateway.fine_tuning.keeping import QUEUE as TUNES
from gateway.fine_tuning.keeping import TuneBook
from gateway.fine_tuning.owners import Owners
from gateway.fine_tuning.service import TuneService
from gateway.fine_tuning.urls import TuneUrls
from gateway.presence import Attendance
from gateway.routes.batches import BatchRoutes
from gateway.routes.door import Door, Route
from gateway.routes.files import FileRoutes
from gateway.routes.fine_tuning import FineTuningRoutes
from gateway.routes.webhooks import WebhookRoutes
from gateway.settings import Settings
from gateway.storage.opening import open_storage
from gateway.storage.port import Storage
from gateway.telemetry.metrics import Telemetry
from gateway.upstream.client import UpstreamClient
from policies.jobs.port import JobStore

if TYPE_CHECKING:
    from gateway.admission import Admission
    from gateway.auth import Authenticator
    from gateway.completion import CompletionService


# What is due there waited for a day.
SWEEP_EVERY_S: Final = 60.0


class LongJobs:
    """What outlives requests, of one process; there is none without a storage."""

    def __init__(
        self,
        settings: Settings,
        *,
        jobs: JobStore,
        storage: Storage,
        door: Door,
        admission: Admission,
        authenticator: Authenticator,
        service: CompletionService,
        upstream: UpstreamClient,
        attendance: Attendance,
        telemetry: Telemetry,
        owners: Owners,
        read_job: ReadJob,
    ) -> None:
        self.jobs = jobs
        self.storage = storage
        self.urls = urls = TuneUrls(settings.public_url, settings.webhook_secret)
        self.files = files = FileService(jobs, storage)
        book = BatchBook(jobs)
        tickets = TicketOffice(settings.public_url, settings.webhook_secret)
        pace = Pace(lambda: attendance.added_total)
        owner = uuid.uuid4().hex
        self.parts = parts = BatchParts(
            settings=settings,
            jobs=jobs,
            book=book,
            files=files,
            desk=ChunkDesk(
                jobs=jobs,
                storage=storage,
                upstream=upstream,
                tickets=tickets,
                pace=pace,
            ),
            tickets=tickets,
            runner=LineRunner(service, admission),
            admission=admission,
            authenticator=authenticator,
            owner=owner,
            pace=pace,
            count_lines=telemetry.batch_lines_written,
            is_anothers=owners.is_anothers,
        )
        worker = Worker(jobs, QUEUE, owner, partial(drive, parts))
        sweeper = Worker(jobs, FILES, owner, files.sweep, idle_s=SWEEP_EVERY_S)
        batches = BatchService(book, files, authenticator, nudge=worker.nudge)
        of_tunes = TuneParts(
            book=TuneBook(jobs),
            files=files,
            owners=owners,
            urls=urls,
            upstream=upstream,
            read_job=read_job,
            authenticator=authenticator,
            poll_s=settings.fine_tune_poll_s,
        )
        tuner = Worker(jobs, TUNES, owner, partial(drive_tune, of_tunes))
        tunes = TuneService(of_tunes, admission, nudge=tuner.nudge)
        self._workers = (worker, sweeper, tuner)
        self._groups = (
            FileRoutes(door, files, urls=urls, max_bytes=settings.file_max_bytes),
            BatchRoutes(door, batches),
            FineTuningRoutes(door, tunes),
            WebhookRoutes(
                door,
                Inbox(jobs, book, of_tunes.book),
                tickets,
                urls,
                settings=settings,
                telemetry=telemetry,
                nudge=self._nudge,
            ),
        )

    def _nudge(self) -> None:
        for worker in self._workers:
            worker.nudge()

    def routes(self) -> list[Route]:
        return [route for group in self._groups for route in group.routes()]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work off what is due, until the end; then another replica may at once."""
        tasks = [asyncio.create_task(worker.run()) for worker in self._workers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.storage.aclose()


def storage_of(settings: Settings) -> Storage | None:
    """
    Where files are; None where nobody said so and other replicas would not see them.

    A gateway that forgets everything when it ends has a folder that is as short-lived.
    """
    if settings.storage_url is not None:
        return open_storage(settings.storage_url)
    if settings.store_url != "memory://":
        return None
    folder = Path(tempfile.gettempdir()) / f"llmtune-gateway-{uuid.uuid4().hex}"
    return open_storage(folder.as_uri())
