"""Objects to store, of any size, and how they are read back."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator

from gateway.storage.port import Storage

KIB = 1024
MIB = 1024 * 1024


def pattern(size: int, chunk_bytes: int = 64 * KIB) -> Iterator[bytes]:
    """Bytes of which no two kilobytes are alike."""
    block = hashlib.sha256(b"a file").digest() * (chunk_bytes // 32)
    for at in range(0, size, chunk_bytes):
        chunk = at.to_bytes(8, "big") + block[8:]
        yield chunk[: size - at]


async def streamed(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def write(storage: Storage, key: str, content: bytes) -> None:
    await storage.put(key, streamed(iter([content])))


async def read(
    storage: Storage, key: str, start: int = 0, end: int | None = None
) -> bytes:
    return b"".join([chunk async for chunk in storage.open(key, start, end)])


async def keys(storage: Storage, prefix: str = "") -> set[str]:
    return {key async for key in storage.list(prefix)}
