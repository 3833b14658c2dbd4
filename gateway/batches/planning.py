"""
Cutting a batch: its input is read once, checked, and written anew in chunks.

A chunk is what is sent, counted and begun again as a whole, and its file is all that a
replica needs to do so. Of an input of any kind a few chunks' bytes are in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from typing import Final

import msgspec

from gateway.batches.lines import BadLine, CheckedLine, Item
from gateway.batches.pace import Pace
from gateway.batches.record import LineError, Way
from gateway.storage.port import Storage

# LLMTune takes no more in one batch.
CHUNK_LINES: Final = 100
# And so much at once is a body that it takes well.
CHUNK_BYTES: Final = 4 * 1024 * 1024

# OpenAI's bounds.
MAX_LINES: Final = 50_000
MAX_LINE_BYTES: Final = 1024 * 1024
# Whoever has so many wrong lines has one mistake, and has seen it.
MAX_ERRORS: Final = 100

# Checked before the next are read, if they have no more bytes than a chunk.
CHECKED_TOGETHER: Final = 200

# Of all chunks that grow: a file may name a model of its own in every line. At half,
# files of ten models are cut into more chunks than they need.
GROWING_BYTES: Final = 8 * CHUNK_BYTES
# What a line holds beside its body, about.
LINE_BYTES: Final = 1024

Check = Callable[[bytes, int], CheckedLine]


class Chunk(msgspec.Struct, frozen=True):
    """Lines of one model that go the same way."""

    model: str
    way: Way
    # What its lines are expected to take.
    tokens: int
    items: tuple[Item, ...]


class Plan(msgspec.Struct, frozen=True):
    """What a batch was cut into, or why it was not."""

    chunks: int
    lines: int
    # Of all lines; None where there are several.
    model: str | None
    errors: tuple[LineError, ...]


class _Growing:
    """A chunk to which lines are added."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.tokens = self.bytes = 0

    def add(self, line: CheckedLine) -> None:
        self.items.append(line.item)
        self.tokens += line.tokens
        self.bytes += len(bytes(line.item.body)) + LINE_BYTES

    @property
    def is_full(self) -> bool:
        return len(self.items) >= CHUNK_LINES or self.bytes >= CHUNK_BYTES


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Chunk).decode


class Cutter:
    """Checks the lines of one batch and keeps its chunks."""

    def __init__(self, storage: Storage, folder: str, check: Check, pace: Pace) -> None:
        self._pace = pace
        self._storage = storage
        self._folder = folder
        self._check = check
        self._growing: dict[tuple[str, Way], _Growing] = {}
        self._growing_bytes = 0
        # Digests of the custom ids: themselves they may be as large as the file.
        self._seen: set[bytes] = set()
        # The first two: more are several, too.
        self._models: set[str] = set()
        self._errors: list[LineError] = []
        self._chunks = self._lines = 0

    async def cut(self, lines: AsyncIterator[bytes], max_lines: int) -> Plan:
        """Cut the whole input; with errors, what was cut is of no use."""
        number, together, held = 0, list[tuple[int, bytes]](), 0
        async for line in lines:
            number += 1
            if not line.strip():
                continue
            self._lines += 1
            together.append((number, line))
            held += len(line)
            if len(together) == CHECKED_TOGETHER or held >= CHUNK_BYTES:
                await self._take(together)
                together, held = [], 0
            if self._lines > max_lines or len(self._errors) >= MAX_ERRORS:
                break
        await self._take(together)
        if self._lines > max_lines:
            text = f"The file has more than {max_lines} requests."
            self._errors.insert(0, LineError("too_many_requests", text))
        elif self._lines == 0:
            self._errors.append(LineError("empty_file", "The file has no request."))
        for place in list(self._growing):
            await self._keep(place)
        only = self._models.pop() if len(self._models) == 1 else None
        errors = tuple(self._errors[:MAX_ERRORS])
        return Plan(self._chunks, self._lines, only, errors)

    async def _take(self, lines: list[tuple[int, bytes]]) -> None:
        for line in await self._checked(lines):
            if self._errors:
                # Nothing will be run: only further mistakes are of interest.
                continue
            place = line.model, line.way
            growing = self._growing.setdefault(place, _Growing())
            before = growing.bytes
            growing.add(line)
            self._growing_bytes += growing.bytes - before
            if growing.is_full:
                await self._keep(place)
            while self._growing_bytes > GROWING_BYTES:
                await self._keep(max(self._growing, key=self._bytes_of))

    def _bytes_of(self, place: tuple[str, Way]) -> int:
        return self._growing[place].bytes

    async def _checked(self, lines: list[tuple[int, bytes]]) -> list[CheckedLine]:
        checked = []
        async with self._pace as pace:
            for number, raw in lines:
                try:
                    checked.append(self._checked_one(number, raw))
                except BadLine as bad:
                    self._errors.append(bad.error)
                await pace.turn()
        return checked

    def _checked_one(self, number: int, raw: bytes) -> CheckedLine:
        if len(raw) > MAX_LINE_BYTES:
            text = f"This line is longer than {MAX_LINE_BYTES} bytes."
            raise BadLine(LineError("line_too_long", text, None, number))
        line = self._check(raw, number)
        custom_id = line.item.custom_id
        digest = hashlib.blake2b(custom_id.encode(), digest_size=16).digest()
        if digest in self._seen:
            text = f"The custom_id {custom_id!r} was there before."
            raise BadLine(LineError("duplicate_custom_id", text, "custom_id", number))
        self._seen.add(digest)
        if len(self._models) < 2:
            self._models.add(line.model)
        return line

    async def _keep(self, place: tuple[str, Way]) -> None:
        growing = self._growing.pop(place)
        self._growing_bytes -= growing.bytes
        chunk = Chunk(*place, growing.tokens, tuple(growing.items))
        key = chunk_key(self._folder, self._chunks)
        await self._storage.put(key, once(_encode(chunk)))
        self._chunks += 1


async def read_chunk(storage: Storage, folder: str, number: int) -> Chunk:
    """A chunk as it was cut."""
    parts = [part async for part in storage.open(chunk_key(folder, number))]
    return _decode(b"".join(parts))


def chunk_key(folder: str, number: int) -> str:
    return f"{folder}/chunk-{number:05}"


async def once(data: bytes) -> AsyncIterator[bytes]:
    """Bytes as a storage takes them."""
    yield data
