"""
Files below one directory, by path segments, with system calls that follow no link.

Each segment is opened relative to the one before it, so that neither a link placed
there nor a directory exchanged meanwhile leads out. Blocking: runs in threads only.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INNER: Final = _DIRECTORY | os.O_NOFOLLOW
# A FIFO placed there must not make an open wait for its writer.
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# What a path through something else than directories and files is answered with.
NOT_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR})

# Each time, somebody deleted the last object of a folder between two of our steps.
_PUBLISH_ATTEMPTS: Final = 10


@contextmanager
def opened(root: Path, folder: str, *, create: bool = False) -> Iterator[int]:
    """A descriptor of a directory below the root."""
    if create:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root, _DIRECTORY)
    try:
        for segment in folder.split("/") if folder else ():
            if create:
                _make(segment, descriptor)
            inner = os.open(segment, _INNER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _make(segment: str, descriptor: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(segment, 0o700, dir_fd=descriptor)
        # An object that is on the disk is no use if a folder above it is not.
        os.fsync(descriptor)


def open_file(root: Path, key: str) -> int:
    """A descriptor to read an ordinary file by."""
    folder, _, name = key.rpartition("/")
    with opened(root, folder) as directory:
        descriptor = os.open(name, _READ, dir_fd=directory)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return descriptor


def create_file(root: Path, folder: str, name: str) -> int:
    """A descriptor to write a new file by."""
    with opened(root, folder, create=True) as directory:
        return os.open(name, _CREATE, 0o600, dir_fd=directory)


def publish(root: Path, source_folder: str, source: str, key: str) -> None:
    """Move a written file to where it belongs, in one step that outlives a crash."""
    folder, _, name = key.rpartition("/")
    for attempt in range(_PUBLISH_ATTEMPTS):
        try:
            with (
                opened(root, source_folder) as unfinished,
                opened(root, folder, create=True) as directory,
            ):
                os.replace(source, name, src_dir_fd=unfinished, dst_dir_fd=directory)
                os.fsync(directory)
        except FileNotFoundError:
            if attempt == _PUBLISH_ATTEMPTS - 1:
                raise
        else:
            return


def remove_file(root: Path, key: str) -> None:
    """Remove a file, and the folders above it that it leaves empty."""
    folder, _, name = key.rpartition("/")
    with opened(root, folder) as directory:
        os.unlink(name, dir_fd=directory)
        os.fsync(directory)
    while folder:
        parent, _, name = folder.rpartition("/")
        try:
            with opened(root, parent) as directory:
                os.rmdir(name, dir_fd=directory)
        except OSError:
            return  # somebody else's objects, or already gone
        folder = parent


def walk_files(root: Path, folder: str) -> Iterator[str]:
    """The keys of all ordinary files below a folder."""
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        for entry in _scan(root, current):
            key = f"{current}/{entry.name}" if current else entry.name
            if entry.is_dir(follow_symlinks=False):
                waiting.append(key)
            elif entry.is_file(follow_symlinks=False):
                yield key


def _scan(root: Path, folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with opened(root, folder) as directory, os.scandir(directory) as entries:
            yield from entries
    except OSError as error:
        # A folder that is not there, or no longer, has no keys.
        if error.errno not in NOT_THERE:
            raise
