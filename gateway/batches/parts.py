"""What the drivers of batches use."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec

from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.batches.chunks import ChunkDesk
from gateway.batches.keeping import BatchBook
from gateway.batches.pace import Pace
from gateway.batches.record import BatchRecord
from gateway.batches.singly import LineRunner
from gateway.batches.tickets import TicketOffice
from gateway.files.service import FileService
from gateway.settings import Settings
from policies.jobs.port import JobStore


class BatchParts(msgspec.Struct, frozen=True, kw_only=True):
    """What drivers use; shared by all of a process."""

    settings: Settings
    jobs: JobStore
    book: BatchBook
    files: FileService
    desk: ChunkDesk
    tickets: TicketOffice
    runner: LineRunner
    admission: Admission
    authenticator: Authenticator
    owner: str
    pace: Pace
    count_lines: Callable[[int, int], None]
    # Whether a model was tuned for another workspace.
    is_anothers: Callable[[str, str], bool]
    # Hears of a batch that was saved as ended, perhaps more than once.
    ended: Callable[[BatchRecord], Awaitable[None]]
    now_s: Callable[[], float] = time.time
