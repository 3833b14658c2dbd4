"""The storage in a directory: rights, links, a full disk, and its threads."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.storage.local import LocalStorage
from gateway.storage.port import ObjectMissing, StorageUnavailable
from tests.storage.objects import MIB, keys, pattern, read, streamed, write

# Whom the rights of a file do not bind.
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Not there yet, like the directories above it."""
    return tmp_path / "deep" / "objects"


@pytest.fixture
def made(root: Path) -> Path:
    """The same, already there."""
    root.mkdir(parents=True)
    return root


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


@pytest.fixture
async def storage(root: Path) -> AsyncIterator[LocalStorage]:
    storage = LocalStorage(root)
    yield storage
    await storage.aclose()


async def test_only_we_may_read_what_is_stored(
    storage: LocalStorage, root: Path
) -> None:
    await write(storage, "folder/a", b"1")

    assert 0o700 == mode(root)
    assert 0o700 == mode(root / "folder")
    assert 0o600 == mode(root / "folder/a")


async def test_the_last_object_of_a_folder_takes_the_folder_with_it(
    storage: LocalStorage, root: Path
) -> None:
    await write(storage, "a/b/c", b"1")
    await write(storage, "a/d", b"1")

    await storage.delete("a/b/c")

    assert not (root / "a/b").exists()
    assert {"a/d"} == await keys(storage)


async def test_what_dead_writers_left_goes_when_somebody_writes(
    storage: LocalStorage, root: Path
) -> None:
    """A process that is killed in the middle of an upload cannot remove it."""
    left, current = root / "@unfinished/left", root / "@unfinished/current"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"1")
    current.write_bytes(b"1")
    os.utime(left, (0, 0))

    await write(storage, "a", b"1")

    assert ["current"] == names(left.parent)


async def test_what_cannot_be_removed_keeps_nobody_from_writing(
    storage: LocalStorage, root: Path
) -> None:
    strange = root / "@unfinished/a-directory"
    strange.mkdir(parents=True)
    os.utime(strange, (0, 0))

    await write(storage, "a", b"1")

    assert b"1" == await read(storage, "a")


async def test_no_link_leads_out(
    storage: LocalStorage, made: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (made / "folder").symlink_to(outside)
    (made / "file").symlink_to(outside / "secret")

    for key in ("folder/secret", "file"):
        assert await storage.size(key) is None
        with pytest.raises(ObjectMissing):
            await read(storage, key)
    with pytest.raises(StorageUnavailable):
        await write(storage, "folder/new", b"1")
    await storage.delete("folder/secret")

    assert set() == await keys(storage)
    assert ["secret"] == names(outside)


async def test_writing_over_a_link_replaces_the_link(
    storage: LocalStorage, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"theirs")
    (made / "a").symlink_to(tmp_path / "outside")

    await write(storage, "a", b"ours")

    assert b"ours" == await read(storage, "a")
    assert b"theirs" == (tmp_path / "outside").read_bytes()


async def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "volume")
    storage = LocalStorage(tmp_path / "link")

    await write(storage, "a", b"1")

    assert b"1" == (tmp_path / "volume/a").read_bytes()
    await storage.aclose()


async def test_a_pipe_is_no_object_and_stops_nobody(
    storage: LocalStorage, made: Path
) -> None:
    os.mkfifo(made / "pipe")

    assert await storage.size("pipe") is None
    assert set() == await keys(storage)


async def test_an_object_is_nobodys_folder(storage: LocalStorage) -> None:
    await write(storage, "a", b"1")
    await write(storage, "b/c", b"1")

    for key in ("a/b", "b"):
        with pytest.raises(StorageUnavailable):
            await write(storage, key, b"2")

    assert {"a", "b/c"} == await keys(storage)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The nearest to a full disk that needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_disk_that_takes_no_more_is_left_as_it_was(
    storage: LocalStorage, root: Path
) -> None:
    await write(storage, "a", b"before")

    with (
        no_file_larger_than(2 * MIB + 5),
        pytest.raises(StorageUnavailable, match="too large"),
    ):
        await storage.put("a", streamed(pattern(3 * MIB)))

    assert b"before" == await read(storage, "a")
    assert [] == names(root / "@unfinished")


async def test_a_check_fails_where_nothing_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(tmp_path / "file")

    with pytest.raises(StorageUnavailable, match="storage directory"):
        await storage.check()
    with pytest.raises(StorageUnavailable, match="storage directory"):
        await write(storage, "a", b"1")
    await storage.aclose()


@pytest.mark.skipif(IS_ROOT, reason="root may write everywhere")
async def test_a_check_fails_where_we_may_not_write(
    storage: LocalStorage, root: Path
) -> None:
    await storage.check()
    (root / "@unfinished").chmod(0o500)

    with pytest.raises(StorageUnavailable, match="Permission denied"):
        await storage.check()
    (root / "@unfinished").chmod(0o700)


# A hook cannot be taken away again, so it has a process of its own.
WATCHED = """
import asyncio, json, sys, threading
from tests.storage.objects import MIB, keys, pattern, read, streamed, write
from gateway.storage.opening import open_storage

seen = []
is_watching = False
OF_FILES = ("open", "os.")

def hook(event, args):
    if is_watching and event.startswith(OF_FILES):
        where = threading.current_thread() is threading.main_thread()
        seen.append((where, event))

async def use(storage):
    await storage.check()
    await storage.put("a/b", streamed(pattern(3 * MIB)))
    await read(storage, "a/b")
    await storage.size("a/b")
    await keys(storage)
    await storage.delete("a/b")

async def main():
    global is_watching
    storage = open_storage(sys.argv[1])
    await use(storage)
    is_watching = True
    await use(storage)
    is_watching = False
    await storage.aclose()

sys.addaudithook(hook)
asyncio.run(main())
print(json.dumps(seen))
"""


def test_the_event_loop_never_touches_the_disk(root: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", WATCHED, f"file://{root}"],
        capture_output=True,
        check=True,
    )

    seen = [tuple(each) for each in json.loads(told.stdout)]
    assert (False, "os.rename") in seen
    assert [] == [event for is_main, event in seen if is_main]
