"""
What is asked of a storage: immutable objects by key, read and written as streams.

Rules for every storage: an object is whole or it is absent, whoever crashes or is
cancelled while it is written; writing over an object replaces it in one step; nothing
is held in memory but a bounded piece of it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final, Protocol

import msgspec

# What one step of a reader holds: large enough that its cost is spread over many bytes,
# small enough that a thousand slow readers fit.
MAX_CHUNK_BYTES: Final = 256 * 1024

# Object stores take twice as much; the rest is for a prefix.
MAX_KEY_BYTES: Final = 512
# File systems take names of 255 bytes.
_SEGMENT: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,200}")


class StorageError(Exception):
    """A storage could not do what was asked."""


class ObjectMissing(StorageError):
    """There is no object under this key."""

    def __init__(self, key: str) -> None:
        super().__init__(f"there is no object `{key}`")


class StorageUnavailable(StorageError):
    """The storage is away, full, or refuses us; one line says which."""


class StoredObject(msgspec.Struct, frozen=True):
    """What was written: its length, and its digest in hexadecimal."""

    bytes: int
    sha256: str


class Storage(Protocol):
    """
    Objects by key. A key is segments of `[A-Za-z0-9._-]`, parted by slashes.

    A malformed key or range is a ValueError. No key may be another one's folder: of
    `a` and `a/b`, many storages keep only one.
    """

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        """
        Write an object, or replace it, when `chunks` has ended.

        What `chunks` raises is passed on and nothing is written. The next chunk is
        asked for once there is room for it.
        """
        ...

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        """
        The bytes from `start` to before `end`, as far as there are any.

        ObjectMissing comes with the first chunk, not with this call. What is read is
        one version of the object: where it is replaced meanwhile, the reader goes on
        with what was there, or ends with StorageUnavailable.
        """
        ...

    async def size(self, key: str) -> int | None:
        """How many bytes it has; None if there is no such object."""
        ...

    async def delete(self, key: str) -> None:
        """Make sure that there is no such object."""
        ...

    def list(self, prefix: str = "") -> AsyncIterator[str]:
        """The keys below a folder, in no particular order."""
        ...

    async def check(self) -> None:
        """StorageUnavailable unless it can be written right now."""
        ...

    async def aclose(self) -> None:
        """Let go of what is held, once nothing is read or written any more."""
        ...


def require_key(key: str) -> str:
    """The key itself; ValueError if it could name anything but an object."""
    if len(key) > MAX_KEY_BYTES:
        raise ValueError(f"a key has at most {MAX_KEY_BYTES} bytes")
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise ValueError(f"not a key: {key!r}; its segments are of [A-Za-z0-9._-]")
    return key


def require_folder(prefix: str) -> str:
    """A folder's key without a slash at its end; empty for all there is."""
    folder = prefix.removesuffix("/")
    return require_key(folder) if folder else ""


def require_range(start: int, end: int | None) -> None:
    """ValueError for a range that ends before it starts."""
    if start < 0 or (end is not None and end < start):
        raise ValueError(f"not a range of bytes: {start} to {end}")
