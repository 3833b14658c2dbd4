"""What the drivers of fine-tunes use."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec

from gateway.auth import Authenticator
from gateway.files.service import FileService
from gateway.fine_tuning.keeping import TuneBook
from gateway.fine_tuning.owners import Owners
from gateway.fine_tuning.record import TuneRecord
from gateway.fine_tuning.urls import TuneUrls
from gateway.upstream.client import Credentials, UpstreamClient

ReadJob: TypeAlias = Callable[[Credentials, str], Awaitable[bytes]]


class TuneParts(msgspec.Struct, frozen=True, kw_only=True):
    """What drivers use; shared by all of a process."""

    book: TuneBook
    files: FileService
    owners: Owners
    urls: TuneUrls
    upstream: UpstreamClient
    read_job: ReadJob
    authenticator: Authenticator
    poll_s: float
    # Hears of a job that was saved as ended, perhaps more than once.
    ended: Callable[[TuneRecord], Awaitable[None]]
    now_s: Callable[[], float] = time.time
