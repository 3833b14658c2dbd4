"""Files below the routes: their lines, their lists, and their ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.batches.planning import once
from gateway.files.service import QUEUE, FileService, split_lines
from gateway.storage.local import LocalStorage
from gateway.storage.port import StorageUnavailable
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import Kept

KIB = 1024
WORKSPACE = "ws"


class CountedJobs(MemoryJobs):
    """Counts the lists that are asked of it; its clock stands unless it is moved."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now_ms)
        self.now_ms = 0
        self.pages = 0

    async def page(self, *args: Any, **named: Any) -> Sequence[Kept]:
        self.pages += 1
        return await super().page(*args, **named)


class FailingStorage(LocalStorage):
    """Deletes nothing while it is told to be away."""

    is_away = False

    async def delete(self, key: str) -> None:
        if self.is_away:
            raise StorageUnavailable("away")
        await super().delete(key)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[FailingStorage]:
    storage = FailingStorage(tmp_path / "files")
    yield storage
    await storage.aclose()


@pytest.fixture
def jobs() -> CountedJobs:
    return CountedJobs()


@pytest.fixture
def files(jobs: CountedJobs, storage: FailingStorage) -> FileService:
    return FileService(jobs, storage)


async def keep(files: FileService, **fields: Any) -> str:
    record = await files.create(
        WORKSPACE, once(b"x"), **({"filename": "a", "purpose": "batch"} | fields)
    )
    return record.id


async def work_off(jobs: CountedJobs, files: FileService) -> None:
    """What a worker does with the files that are due."""
    for item in await jobs.claim(QUEUE, "me", lease_ms=1000, most=10):
        await files.sweep(item)
        await jobs.finish(QUEUE, item, "me")


async def keys(storage: LocalStorage) -> list[str]:
    return [key async for key in storage.list()]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(
    ("parts", "lines"),
    [
        pytest.param((b"a\nb\n", b"c"), [b"a", b"b", b"c"], id="whole"),
        pytest.param((b"a", b"b\n", b"\n", b"c\n"), [b"ab", b"", b"c"], id="parted"),
        pytest.param((b"abcd\nab",), [b"abcd", b"ab"], id="as-long-as-may-be"),
        pytest.param((b"abc", b"defgh", b"i\nx"), [b"abcde", b"x"], id="longer"),
        pytest.param((b"abcdefgh\nx\n",), [b"abcde", b"x"], id="longer-at-once"),
        pytest.param((), [], id="empty"),
    ],
)
async def test_lines_are_as_long_as_somebody_wants_them(
    parts: tuple[bytes, ...], lines: list[bytes]
) -> None:
    """A file without a line's end must not be held whole."""
    assert lines == [each async for each in split_lines(pieces(*parts), 4)]


async def test_a_purpose_is_found_among_many_files_of_another(
    files: FileService, jobs: CountedJobs
) -> None:
    wanted = await keep(files, purpose="evals")
    for _ in range(300):
        await keep(files)
    jobs.pages = 0

    found = await files.page(
        WORKSPACE, after=None, limit=1, newest_first=True, purpose="evals"
    )

    assert [wanted] == [each.id for each in found]
    assert jobs.pages == 1


async def test_what_is_deleted_while_the_storage_is_away_goes_later(
    files: FileService, jobs: CountedJobs, storage: FailingStorage
) -> None:
    """Its record is gone at once, so that nobody can ask for it once more."""
    file_id = await keep(files)
    jobs.now_ms += 2 * 86_400_000
    await work_off(jobs, files)
    storage.is_away = True

    await files.delete(WORKSPACE, file_id)

    assert await files.read(WORKSPACE, file_id) is None
    assert len(await keys(storage)) == 1
    storage.is_away = False
    jobs.now_ms += 120_000
    await work_off(jobs, files)
    assert [] == await keys(storage)
