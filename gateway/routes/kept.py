"""What routes say when the store of jobs or the storage is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from gateway.errors import StoreUnavailable
from gateway.storage.port import StorageUnavailable
from policies.jobs.port import JobsUnavailable

RETRY_AFTER_MS: Final = 1000


@contextmanager
def unavailable_as_503() -> Iterator[None]:
    """Either is the gateway's trouble, and passes."""
    try:
        yield
    except (JobsUnavailable, StorageUnavailable) as error:
        raise StoreUnavailable(
            "What the gateway keeps cannot be reached at the moment; try again.",
            retry_after_ms=RETRY_AFTER_MS,
            is_retryable=True,
        ) from error
