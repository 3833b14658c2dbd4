"""What is left of a write that was cancelled, or whose process was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.storage.port import Storage
from tests.servers.object_storage import ObjectStorage
from tests.storage.objects import KIB, MIB, keys, pattern, read, write

# Before the first part of S3, in its middle, and when several are on their way.
AFTER_BYTES = [0, 64 * KIB, 5 * MIB, 12 * MIB, 23 * MIB]


class Endless:
    """A client that sends so much and then nothing more, while its line stays up."""

    def __init__(self, size: int) -> None:
        self._chunks = pattern(size)
        self.is_waited_for = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        self.is_waited_for.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("size", AFTER_BYTES)
async def test_a_cancelled_write_leaves_nothing(
    storage: Storage, storage_url: str, size: int
) -> None:
    source = Endless(size)
    writing = asyncio.create_task(storage.put("folder/a", aiter(source)))
    await source.is_waited_for.wait()

    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert await storage.size("folder/a") is None
    assert set() == await keys(storage)
    if storage_url.startswith("file:"):
        assert [] == files_below(storage_url)


@pytest.mark.parametrize("storage_url", ["s3"], indirect=True)
async def test_a_cancelled_write_leaves_no_parts_in_s3(
    s3: ObjectStorage, storage: Storage
) -> None:
    before = await s3.unfinished_uploads()
    source = Endless(23 * MIB)
    writing = asyncio.create_task(storage.put("a", aiter(source)))
    await source.is_waited_for.wait()
    assert before + 1 == await s3.unfinished_uploads()

    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing

    assert before == await s3.unfinished_uploads()


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_a_write_cancelled_anywhere_is_whole_or_absent(
    storage: Storage, steps: int
) -> None:
    await write(storage, "a", b"before")

    async def source() -> AsyncIterator[bytes]:
        for _ in range(12):
            yield b"x" * MIB

    writing = asyncio.create_task(storage.put("a", source()))
    for _ in range(steps):
        await asyncio.wait({writing}, timeout=0.001)
    writing.cancel()
    await asyncio.wait({writing})

    assert await read(storage, "a") in {b"before", b"x" * 12 * MIB}


WRITER = """
import asyncio, sys
from tests.storage.objects import MIB, pattern
from gateway.storage.opening import open_storage

async def source():
    for chunk in pattern(int(sys.argv[2])):
        yield chunk
    print("waiting", flush=True)
    await asyncio.Event().wait()

asyncio.run(open_storage(sys.argv[1]).put("folder/a", source()))
"""


@pytest.mark.parametrize("size", [MIB, 23 * MIB])
async def test_a_killed_writer_leaves_no_object(
    storage: Storage, storage_url: str, size: int
) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", WRITER, storage_url, str(size)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert b"waiting\n" == await writer.stdout.readline()

    writer.send_signal(signal.SIGKILL)
    assert -signal.SIGKILL == await writer.wait()

    assert await storage.size("folder/a") is None
    assert set() == await keys(storage)


@pytest.mark.parametrize("storage_url", ["local"], indirect=True)
async def test_what_a_killed_writer_left_goes_after_a_day(
    storage: Storage, storage_url: str
) -> None:
    await write(storage, "kept", b"1")
    folder = Path(storage_url.removeprefix("file://")) / "@unfinished"
    for name, age_s in (("old", 25 * 3600), ("young", 23 * 3600)):
        (folder / name).write_bytes(b"half of a file")
        modified_s = (folder / name).stat().st_mtime - age_s
        os.utime(folder / name, (modified_s, modified_s))

    await storage.check()

    assert ["@unfinished/young", "kept"] == files_below(storage_url)


def files_below(url: str) -> list[str]:
    root = Path(url.removeprefix("file://"))
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()
    )
