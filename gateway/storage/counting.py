"""Any storage, with what became of each call counted, and said where it failed."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, TypeVar

from gateway.storage.port import (
    ObjectMissing,
    Storage,
    StorageError,
    StoredObject,
)

logger = logging.getLogger(__name__)

T = TypeVar("T")

Call: TypeAlias = Literal["put", "open", "size", "delete", "list", "check"]
# What a caller's bytes end in, or a caller that leaves, is no outcome of a storage.
Outcome: TypeAlias = Literal["ok", "missing", "unavailable"]


class CountedStorage:
    """Implements `Storage` by another one."""

    def __init__(
        self, storage: Storage, count: Callable[[Call, Outcome], None]
    ) -> None:
        self._storage = storage
        self._count = count

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        source = _Source(chunks)
        with self._counted("put", source):
            return await self._storage.put(key, source)

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        return self._passed_on("open", self._storage.open(key, start, end))

    async def size(self, key: str) -> int | None:
        with self._counted("size"):
            return await self._storage.size(key)

    async def delete(self, key: str) -> None:
        with self._counted("delete"):
            await self._storage.delete(key)

    def list(self, prefix: str = "") -> AsyncIterator[str]:
        return self._passed_on("list", self._storage.list(prefix))

    async def check(self) -> None:
        with self._counted("check"):
            await self._storage.check()

    async def aclose(self) -> None:
        await self._storage.aclose()

    async def _passed_on(self, call: Call, items: AsyncIterator[T]) -> AsyncIterator[T]:
        try:
            with self._counted(call):
                async for item in items:
                    yield item
        finally:
            if isinstance(items, AsyncGenerator):
                # Of a reader that leaves: a generator's end is nobody else's.
                await items.aclose()

    @contextmanager
    def _counted(self, call: Call, source: _Source | None = None) -> Iterator[None]:
        try:
            yield
        except StorageError as error:
            # Bytes that are read of a storage may fail there, which was counted then.
            if source is None or error is not source.error:
                self._failed(call, error)
            raise
        self._count(call, "ok")

    def _failed(self, call: Call, error: StorageError) -> None:
        if isinstance(error, ObjectMissing):
            self._count(call, "missing")
            return
        self._count(call, "unavailable")
        # A caller is told that it may try again, and an operator has to know why.
        facts = {"call": call, "reason": str(error)}
        logger.warning("the storage failed", extra={"facts": facts})


class _Source:
    """A caller's bytes, and the error of a storage in which they ended."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.error: StorageError | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except StorageError as error:
            self.error = error
            raise
