"""
S3Storage: objects in a bucket of S3, or of what speaks its protocol.

Credentials come from the environment's AWS_* variables or the pod's identity. What the
library says of an error is not passed on whole: it quotes requests and answers.

A storage that was opened before a fork may be used after it, by a process whose parent
has used none: the library's threads are made with the first request, and a child has
none of its parent's, for which it would wait for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from gateway.storage.handoff import Handoff
from gateway.storage.port import (
    MAX_CHUNK_BYTES,
    ObjectMissing,
    StorageUnavailable,
    StoredObject,
    require_folder,
    require_key,
    require_range,
)
from gateway.storage.s3_location import S3Location

if TYPE_CHECKING:
    from obstore import Bytes, ObjectMeta
    from obstore.store import S3Config

# S3's least. An upload holds one part that fills and these that are sent; of a larger
# part, the object could be larger, but 10,000 of these are already 48 GiB.
PART_BYTES: Final = 5 * 1024 * 1024
PARTS_AT_ONCE: Final = 2

# A reader holds so much, and no connection while its client takes it. Half of it is
# twice the requests, each of which costs a round trip.
WINDOW_BYTES: Final = 1024 * 1024

CONNECT_TIMEOUT_S: Final = 5.0
# For a part, or a window, from the connection to the end of the answer.
REQUEST_TIMEOUT_S: Final = 30.0
RETRIES: Final = 2

_HELD_AS_ONE_BYTES: Final = 64 * 1024

# How long a caller that gave up waits for the parts it has sent to be removed.
ABANDON_WITHIN_S: Final = 5.0

# The library's threads touch Python for some microseconds after their last answer, and
# one that does so while the interpreter ends aborts the process
# (PyO3/pyo3-async-runtimes issue 40): without a pause, one exit in two hundred.
_FAREWELL_S: Final = 0.05

# No key can name it.
_CHECKED: Final = "@check"

_ERROR_CODE: Final = re.compile(r"<Code>([A-Za-z0-9]{1,64})</Code>")
_ERROR_STATUS: Final = re.compile(r"status code: ([1-5]\d\d)")


class S3Storage:
    """Our folder of a bucket."""

    def __init__(
        self, location: S3Location, *, request_timeout_s: float = REQUEST_TIMEOUT_S
    ) -> None:
        self._store = _store_at(location, request_timeout_s)
        # Uploads that are being abandoned; a task that nobody holds may be dropped.
        self._abandoned: set[asyncio.Future[None]] = set()

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> StoredObject:
        require_key(key)
        taking = _Taking(chunks)
        await taking.fill(PART_BYTES)
        if taking.is_at_end:
            # Most objects are one part, and one request.
            await self._put_whole(key, b"".join(taking.held))
        else:
            await self._put_in_parts(key, taking)
        return taking.told

    async def _put_whole(self, key: str, whole: bytes) -> None:
        with _errors_of(key):
            await obstore.put_async(self._store, key, whole, use_multipart=False)

    async def _put_in_parts(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        handoff = Handoff()
        upload = asyncio.ensure_future(self._upload(key, handoff))
        handoff.is_taken_by(upload)
        try:
            async for piece in pieces:
                await handoff.give(piece)
            await handoff.finish()
            await asyncio.shield(upload)
        except BaseException:
            await self._abandon(upload, handoff)
            raise

    async def _upload(self, key: str, pieces: Handoff) -> None:
        with _errors_of(key):
            await obstore.put_async(
                self._store,
                key,
                pieces,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=PARTS_AT_ONCE,
            )

    async def _abandon(self, upload: asyncio.Future[None], handoff: Handoff) -> None:
        """Have the parts removed that were sent; a bucket bills also what is unseen."""
        if upload.done():
            return
        handoff.abandon()
        self._abandoned.add(upload)
        upload.add_done_callback(self._forget)
        await asyncio.wait({upload}, timeout=ABANDON_WITHIN_S)

    def _forget(self, upload: asyncio.Future[None]) -> None:
        self._abandoned.discard(upload)
        if not upload.cancelled():
            upload.exception()  # marks it as seen

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        require_range(start, end)
        return self._read(require_key(key), start, end)

    async def _read(
        self, key: str, start: int, end: int | None
    ) -> AsyncIterator[bytes]:
        meta = await self._head(key)
        end = meta["size"] if end is None else min(end, meta["size"])
        while start < end:
            until = min(start + WINDOW_BYTES, end)
            window = memoryview(await self._window(key, meta["e_tag"], start, until))
            if len(window) != until - start:
                raise StorageUnavailable(f"S3 sent another range of `{key}`")
            for at in range(0, len(window), MAX_CHUNK_BYTES):
                yield bytes(window[at : at + MAX_CHUNK_BYTES])
            start = until

    async def _head(self, key: str) -> ObjectMeta:
        with _errors_of(key):
            return await obstore.head_async(self._store, key)

    async def _window(self, key: str, e_tag: str | None, start: int, end: int) -> Bytes:
        with _errors_of(key):
            answer = await obstore.get_async(
                self._store, key, options={"range": (start, end), "if_match": e_tag}
            )
            return await answer.bytes_async()

    async def size(self, key: str) -> int | None:
        try:
            return (await self._head(require_key(key)))["size"]
        except ObjectMissing:
            return None

    async def delete(self, key: str) -> None:
        with suppress(ObjectMissing), _errors_of(require_key(key)):
            await obstore.delete_async(self._store, key)

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        pages = obstore.list(self._store, require_folder(prefix) or None).__aiter__()
        while True:
            with _errors_of(prefix):
                page = await anext(pages, None)
            if page is None:
                return
            for each in page:
                if each["path"] != _CHECKED:
                    yield each["path"]

    async def check(self) -> None:
        with _errors_of(_CHECKED):
            await obstore.put_async(self._store, _CHECKED, b"x", use_multipart=False)
            await obstore.delete_async(self._store, _CHECKED)

    async def aclose(self) -> None:
        if self._abandoned:
            await asyncio.wait(set(self._abandoned), timeout=ABANDON_WITHIN_S)
        await asyncio.sleep(_FAREWELL_S)


class _Taking:
    """What is taken from a source: its first chunks ahead, its length and digest."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._digest = hashlib.sha256()
        self._bytes = 0
        self.held: deque[bytearray] = deque()
        self.is_at_end = False

    @property
    def told(self) -> StoredObject:
        return StoredObject(self._bytes, self._digest.hexdigest())

    async def fill(self, size: int) -> None:
        """Hold chunks until they are so many bytes, or all there are."""
        while self._bytes < size and not self.is_at_end:
            chunk = await self._take()
            if chunk is None:
                return
            # A client may send single bytes, of which each would be held as forty.
            if self.held and len(self.held[-1]) < _HELD_AS_ONE_BYTES:
                self.held[-1] += chunk
            else:
                self.held.append(bytearray(chunk))

    async def _take(self) -> bytes | None:
        chunk = await anext(self._chunks, None)
        if chunk is None:
            self.is_at_end = True
            return None
        self._digest.update(chunk)
        self._bytes += len(chunk)
        return chunk

    def __aiter__(self) -> _Taking:
        return self

    async def __anext__(self) -> bytes:
        if self.held:
            # Not joined to a whole: each is let go as soon as it is given away.
            return bytes(self.held.popleft())
        chunk = await self._take()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


def _store_at(location: S3Location, request_timeout_s: float) -> S3Store:
    config: S3Config = {
        "virtual_hosted_style_request": not location.is_path_style,
        # Not every server has the request that deletes many; we delete one at a time.
        "disable_bulk_delete": True,
    }
    if location.region is not None:
        config["region"] = location.region
    if location.endpoint is not None:
        config["endpoint"] = location.host_endpoint
    return S3Store(
        location.bucket,
        prefix=location.prefix or None,
        config=config,
        client_options={
            "allow_http": location.is_plain_http,
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=request_timeout_s),
        },
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=request_timeout_s),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
    )


@contextmanager
def _errors_of(key: str) -> Iterator[None]:
    """Raise the library's errors as ours, without what they quote."""
    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" in str(error):
            raise StorageUnavailable("S3: NoSuchBucket") from None
        raise ObjectMissing(key) from None
    except (BaseError, OSError, ValueError) as error:
        raise StorageUnavailable(f"S3: {_told(error)}") from None


def _told(error: Exception) -> str:
    text = str(error)
    for pattern, say in _SAYINGS:
        if found := pattern.search(text):
            return say(found)
    return type(error).__name__


_SAYINGS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (_ERROR_CODE, lambda found: found[1]),
    (_ERROR_STATUS, lambda found: f"it answered {found[1]}"),
    (re.compile("TimedOut|operation timed out"), lambda _: "it did not answer in time"),
    (re.compile("kind: Connect|ConnectError"), lambda _: "it cannot be reached"),
)
