"""
Cutting a batch: its input is read once, checked, and written anew in chunks.

A chunk is what is sent, counted and begun again as a whole, and its file is all that a
replica needs to do so. At no time more than the open chunks are in memory.
"""

from __future__ import annotations

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

# Checked before the next are read.
CHECKED_TOGETHER: Final = 200

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
        self.bytes += len(bytes(line.item.body))

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
        self._seen: set[str] = set()
        self._models: set[str] = set()
        self._errors: list[LineError] = []
        self._chunks = self._lines = 0

    async def cut(self, lines: AsyncIterator[bytes], max_lines: int) -> Plan:
        """Cut the whole input; with errors, what was cut is of no use."""
        number, together = 0, list[tuple[int, bytes]]()
        async for line in lines:
            number += 1
            if not line.strip():
                continue
            self._lines += 1
            together.append((number, line))
            if len(together) == CHECKED_TOGETHER:
                await self._take(together)
                together = []
            if self._lines > max_lines or len(self._errors) >= MAX_ERRORS:
                break
        await self._take(together)
        if self._lines > max_lines:
            text = f"The file has more than {max_lines} requests."
            self._errors.insert(0, LineError("too_many_requests", text))
        elif self._lines == 0:
            self._errors.append(LineError("empty_file", "The file has no request."))
        for (model, way), growing in self._growing.items():
            await self._keep(model, way, growing)
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
            growing.add(line)
            if growing.is_full:
                await self._keep(*place, growing)
                del self._growing[place]

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
        if custom_id in self._seen:
            text = f"The custom_id {custom_id!r} was there before."
            raise BadLine(LineError("duplicate_custom_id", text, "custom_id", number))
        self._seen.add(custom_id)
        self._models.add(line.model)
        return line

    async def _keep(self, model: str, way: Way, growing: _Growing) -> None:
        chunk = Chunk(model, way, growing.tokens, tuple(growing.items))
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
