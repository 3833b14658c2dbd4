"""
LocalStorage: objects as files below a directory.

An object is written to a file of its own in `@unfinished`, which no key can name, and
moved to its place when all of it is on the disk. Whatever may wait for the disk runs in
a thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from uuid import uuid4

from gateway.storage import folder as files
from gateway.storage.port import (
    MAX_CHUNK_BYTES,
    ObjectMissing,
    StorageUnavailable,
    StoredObject,
    require_folder,
    require_key,
    require_range,
)

Args = ParamSpec("Args")
Result = TypeVar("Result")

_UNFINISHED: Final = "@unfinished"

# No upload takes so long, so whatever is older was left by a process that died.
_LEFTOVER_AFTER_S: Final = 24 * 3600

# Whoever writes looks for them so often: nobody else has to run for that.
_SWEEP_EVERY_S: Final = 3600

# A disk does not become faster by being asked more at once; and one that hangs must not
# take the threads of everything else with it.
_THREADS: Final = 4

_LISTED_AT_ONCE: Final = 500


class LocalStorage:
    """A directory of this machine, or of a volume that several mount."""

    def __init__(self, root: Path, *, now_s: Callable[[], float] = time.time) -> None:
        self._root = root
        self._now_s = now_s
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="storage")
        self._sweep_at_s = 0.0

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        writing = _Writing(self._root, require_key(key))
        try:
            if self._now_s() >= self._sweep_at_s:
                self._sweep_at_s = self._now_s() + _SWEEP_EVERY_S
                await self._in_thread(self._sweep)
            async for piece in _joined(chunks):
                await self._in_thread(writing.append, piece)
            return await self._in_thread(writing.publish)
        finally:
            await self._in_thread(writing.discard)

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        require_range(start, end)
        return self._read(require_key(key), start, end)

    async def _read(
        self, key: str, start: int, end: int | None
    ) -> AsyncIterator[bytes]:
        reading = _Reading(self._root, key)
        try:
            while end is None or start < end:
                most = MAX_CHUNK_BYTES if end is None else end - start
                chunk = await self._in_thread(
                    reading.read, min(most, MAX_CHUNK_BYTES), start
                )
                if not chunk:
                    return
                start += len(chunk)
                yield chunk
        finally:
            reading.close()

    async def size(self, key: str) -> int | None:
        reading = _Reading(self._root, require_key(key))
        try:
            return await self._in_thread(reading.size)
        except ObjectMissing:
            return None
        finally:
            reading.close()

    async def delete(self, key: str) -> None:
        with suppress(ObjectMissing):
            await self._in_thread(_on_key, files.remove_file, self._root, key)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        keys = files.walk_files(self._root, require_folder(prefix))
        while page := await self._in_thread(_next_page, keys):
            for key in page:
                if not key.startswith(_UNFINISHED):
                    yield key

    async def check(self) -> None:
        await self._in_thread(self._sweep)
        writing = _Writing(self._root, "")
        try:
            await self._in_thread(writing.append, b"x")
        finally:
            await self._in_thread(writing.discard)

    def _sweep(self) -> None:
        """Remove what writers that died have left behind."""
        before_s = self._now_s() - _LEFTOVER_AFTER_S
        with files.opened(self._root, _UNFINISHED, create=True) as directory:
            with os.scandir(directory) as found:
                entries = list(found)
            for entry in entries:
                # Another process may sweep the same directory, and nobody is kept from
                # writing by what cannot be removed.
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < before_s:
                        os.unlink(entry.name, dir_fd=directory)

    async def aclose(self) -> None:
        self._pool.shutdown(wait=False)

    async def _in_thread(
        self, call: Callable[Args, Result], *args: Args.args, **named: Args.kwargs
    ) -> Result:
        """
        Run a blocking step, to its end also when cancelled.

        A thread cannot be stopped, and what it works on must not be closed or removed
        under it. A step is a quarter of a megabyte, so this end is near.
        """
        loop = asyncio.get_running_loop()
        step = loop.run_in_executor(self._pool, partial(call, *args, **named))
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            while not step.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({step})
            if not step.cancelled():
                step.exception()  # marks it as seen
            raise
        except OSError as error:
            raise _unavailable(error) from error


class _Writing:
    """An object that is being written; its steps run in threads, one after another."""

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self._key = key
        self._name = uuid4().hex
        self._descriptor: int | None = None
        self._digest = hashlib.sha256()
        self._bytes = 0

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = files.create_file(self._root, _UNFINISHED, self._name)
        return self._descriptor

    def append(self, piece: bytes) -> None:
        descriptor, left = self._open(), memoryview(piece)
        while left:
            left = left[os.write(descriptor, left) :]
        self._digest.update(piece)
        self._bytes += len(piece)

    def publish(self) -> StoredObject:
        descriptor = self._open()  # an object of no bytes is a file, too
        # Before the move: a crash after it must not find an empty file there.
        os.fsync(descriptor)
        files.publish(self._root, _UNFINISHED, self._name, self._key)
        os.close(descriptor)
        self._descriptor = None
        return StoredObject(self._bytes, self._digest.hexdigest())

    def discard(self) -> None:
        """Remove what was written, unless it has been published."""
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        self._descriptor = None
        with suppress(FileNotFoundError), files.opened(self._root, _UNFINISHED) as at:
            os.unlink(self._name, dir_fd=at)


class _Reading:
    """One object, opened with the first step; its steps run in threads."""

    def __init__(self, root: Path, key: str) -> None:
        self._root = root
        self._key = key
        self._descriptor: int | None = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = _on_key(files.open_file, self._root, self._key)
        return self._descriptor

    def read(self, most_bytes: int, at: int) -> bytes:
        return os.pread(self._open(), most_bytes, at)

    def size(self) -> int:
        return os.fstat(self._open()).st_size

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _on_key(call: Callable[[Path, str], Result], root: Path, key: str) -> Result:
    try:
        return call(root, require_key(key))
    except OSError as error:
        if error.errno in files.NOT_THERE:
            raise ObjectMissing(key) from None
        raise


def _next_page(keys: Iterator[str]) -> list[str]:
    return [*islice(keys, _LISTED_AT_ONCE)]


def _unavailable(error: OSError) -> StorageUnavailable:
    return StorageUnavailable(f"the storage directory: {error.strerror or error}")


async def _joined(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in fewer pieces: each costs a step in a thread."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) >= MAX_CHUNK_BYTES:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
