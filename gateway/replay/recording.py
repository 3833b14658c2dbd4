"""
The answer of a request that runs here, as it grows.

What comes is handed to whoever reads along, and written to the store in pieces, soon if
somebody follows there, else seldom. What was written is forgotten here: a reader that
lags behind that reads it from the store. So a recording holds what is on its way, and
not the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias

from gateway.errors import GatewayError
from policies.replay.port import (
    AnswerHead,
    Bounds,
    Part,
    Reading,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
    Standing,
)

logger = logging.getLogger(__name__)

# A piece is written when it has this size, or is this old: by itself, or followed.
PIECE_BYTES: Final = 16 * 1024
WRITE_EVERY_S: Final = 0.5
WRITE_FOLLOWED_EVERY_S: Final = 0.05

# Of an answer on its way. Beyond it the upstream is made to wait.
HIGH_WATER_BYTES: Final = 64 * 1024
# Handed out, or written, at once: hundreds of readers and writers have as much each.
AT_ONCE_BYTES: Final = 32 * 1024


_Step: TypeAlias = Callable[[ReplayKey, str, Part, Bounds], Awaitable[Standing]]


class Recording:
    """One answer: fed by the request that runs it, read by everybody who waits."""

    def __init__(
        self,
        store: ReplayStore,
        key: ReplayKey,
        owner: str,
        bounds: Bounds,
        *,
        run_beside: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self.key = key
        self.owner = owner
        self.head: AnswerHead | None = None
        # Whether it came to its own end; `error` where one came instead.
        self.is_complete = False
        self.is_over = False
        self.error: GatewayError | None = None
        # Whether it is written to the store, and can be kept.
        self.is_written = True
        self._store = store
        self._bounds = bounds
        self._run_beside = run_beside
        self._is_lost = False
        self._is_followed_elsewhere = False
        self._chunks: list[tuple[int, bytes]] = []
        # Of the answer's body: what is here begins, what the store has ends, all ends.
        self._begin = self._written = self.end = 0
        self._is_head_written = False
        self._whole: Part | None = None
        self._readers: set[LocalReader] = set()
        self._news: asyncio.Future[None] | None = None
        self._progress: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None

    # What the request that runs does.

    def begin(self, head: AnswerHead) -> None:
        """The answer's head is known."""
        self.head = head
        self._tell_news()
        self._write_later()

    def add(self, data: bytes) -> None:
        """More of the answer's body."""
        if not data:
            return
        self._chunks.append((self.end, data))
        self.end += len(data)
        if self.end > self._bounds.max_answer_bytes:
            self._give_up()
        if self.is_written:
            self._write_later()
        else:
            self._trim()
        self._tell_news()

    @property
    def is_full(self) -> bool:
        """Whether more is on its way than is wanted, or somebody would lose its end."""
        if self.held_bytes > HIGH_WATER_BYTES:
            return True
        return not self.is_written and self._has_laggards

    async def room(self) -> None:
        """Until it is not full."""
        while self.is_full:
            self._progress = self._progress or _future()
            await asyncio.shield(self._progress)

    def whole(self, head: AnswerHead, body: bytes) -> None:
        """All of the answer at once, which is written when it is closed."""
        self.head, self._whole = head, Part(0, body, head)
        self._chunks, self.end = [(0, body)], len(body)
        self.is_written = len(body) <= self._bounds.max_answer_bytes
        self.complete()

    def complete(self) -> None:
        """The answer has come to its end; whether it is kept is said by `close`."""
        self.is_complete = True
        self._tell_news()

    def close(self, error: GatewayError | None, *, is_kept: bool) -> None:
        """Nothing more comes: it is kept, or the key is given back."""
        self.is_over, self.error = True, error
        if self._timer is not None:
            self._timer.cancel()
        self._tell_news()
        self._tell_progress()
        self._run_beside(self._end(is_kept=is_kept and self.is_written))

    @property
    def held_bytes(self) -> int:
        """What of it is here."""
        return self.end - self._begin

    # Who follows.

    @property
    def is_followed(self) -> bool:
        """Whether anybody but its own client waits for it."""
        is_followed_here = any(not reader.is_own for reader in self._readers)
        return self._is_followed_elsewhere or is_followed_here

    def read(self, *, is_own: bool = False) -> LocalReader:
        """A reader from the answer's begin, to be closed; the runner's own, or else."""
        reader = LocalReader(self, is_own=is_own)
        self._readers.add(reader)
        return reader

    def leave(self, reader: LocalReader) -> None:
        self._readers.discard(reader)
        self.has_progressed()

    async def after(self, offset: int, *, knows_head: bool) -> Reading:
        """What follows this place, as soon as there is something."""
        while True:
            if offset < self._begin:
                # Of what is on its way to be kept, the state is not the store's.
                reading = await self._store.read(self.key, self.owner, offset)
                if reading.data or reading.state == "gone":
                    return reading
                raise ReplayUnavailable
            if offset < self.end:
                return Reading("running", self.head, self._since(offset))
            if self.is_complete:
                return Reading("complete", self.head)
            if self.is_over:
                return Reading("gone", self.head)
            if self.head is not None and not knows_head:
                return Reading("running", self.head)
            self._news = self._news or _future()
            await asyncio.shield(self._news)

    def _since(self, offset: int) -> bytes:
        chunks = self._chunks
        # Nearly always it is the last one.
        at = len(chunks) - 1
        while chunks[at][0] > offset:
            at -= 1
        begin, found, left = offset - chunks[at][0], [], AT_ONCE_BYTES
        while at < len(chunks) and left > 0:
            found.append(chunks[at][1][begin : begin + left])
            left -= len(found[-1])
            at, begin = at + 1, 0
        return b"".join(found)

    @property
    def _has_laggards(self) -> bool:
        return any(reader.offset < self._begin for reader in self._readers)

    def has_progressed(self) -> None:
        """Somebody has read, written or left: there may be room again."""
        if not self.is_written:
            self._trim()
        if not self.is_full:
            self._tell_progress()

    def _tell_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.set_result(None)

    def _tell_news(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    # The way to the store.

    def _trim(self) -> None:
        """Forget what the store has, or what nobody here has still to read."""
        until = self._written
        if not self.is_written:
            until = min((r.offset for r in self._readers), default=self.end)
        chunks, gone = self._chunks, 0
        while gone < len(chunks) and chunks[gone][0] + len(chunks[gone][1]) <= until:
            gone += 1
        del chunks[:gone]
        self._begin = max(self._begin, chunks[0][0] if chunks else until)

    def _write_later(self) -> None:
        if self._writing is not None or self.is_over:
            return  # whoever writes looks whether there is more
        if self.end - self._written >= PIECE_BYTES:
            self._write_now()
        elif self._timer is None:
            every_s = WRITE_FOLLOWED_EVERY_S if self.is_followed else WRITE_EVERY_S
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(every_s, self._write_now)

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None and self.is_written and not self.is_over:
            self._writing = _future()
            self._run_beside(self._write(self._writing))

    @property
    def _has_unwritten(self) -> bool:
        return self._written < self.end or self._is_head_unwritten

    @property
    def _is_head_unwritten(self) -> bool:
        return self.head is not None and not self._is_head_written

    def _unwritten(self) -> Part:
        data = self._since(self._written) if self._written < self.end else b""
        return Part(self._written, data, self.head if self._is_head_unwritten else None)

    async def _write(self, done: asyncio.Future[None]) -> None:
        part = self._unwritten()
        try:
            standing = await self._store.append(
                self.key, self.owner, part, self._bounds
            )
        except ReplayUnavailable:
            # Tried again with what comes next, as long as that is not too much.
            standing = None
            if self.end - self._written > HIGH_WATER_BYTES:
                self._give_up()
        finally:
            self._writing = None
            done.set_result(None)
        if standing is not None:
            self._has_written(part, standing)
        self.has_progressed()
        if self.is_written and self._has_unwritten:
            self._write_later()

    def _has_written(self, part: Part, standing: Standing) -> None:
        self._is_followed_elsewhere |= standing.is_followed
        if not standing.is_held:
            facts = {"workspace": self.key.workspace, "recording": self.owner}
            logger.warning(
                "the claim of a keyed request was lost", extra={"facts": facts}
            )
            self._is_lost, self.is_written = True, False
        elif not standing.has_room:
            self._give_up()
        else:
            # A renewal may be answered after a write that was sent later.
            self._written = max(self._written, part.end)
            self._is_head_written |= part.head is not None
            self._trim()

    async def renew(self) -> None:
        """Keep its claim alive, and hear whether anybody follows."""
        if not (self.is_over or self._is_lost):
            # What was withdrawn is nobody's to read, but the key is still taken.
            part = Part(self._written)
            try:
                standing = await self._store.append(
                    self.key, self.owner, part, self._bounds
                )
            except ReplayUnavailable:
                return  # there are more renewals than a claim needs
            was_followed = self.is_followed
            self._has_written(part, standing)
            if self.is_followed and not was_followed:
                self._write_now()

    def _give_up(self) -> None:
        """
        Too much to be kept: from now on it is passed on, and written no more.

        Whoever reads from the store what is no longer here does so before it goes.
        """
        if self.is_written:
            self.is_written = False
            self._run_beside(self._withdraw())

    async def _withdraw(self) -> None:
        while self._has_laggards and not self.is_over:
            self._progress = self._progress or _future()
            await asyncio.shield(self._progress)
        if not self.is_over:
            await self._store.withdraw(self.key, self.owner)

    async def _end(self, *, is_kept: bool) -> None:
        if self._writing is not None:
            await self._writing
        if not (is_kept and await self._keep()):
            await self._store.release(self.key, self.owner)

    async def _keep(self) -> bool:
        """Write what is left of it, the last of it as such; False if it is not kept."""
        while self.end - self._written > AT_ONCE_BYTES and self._whole is None:
            part = self._unwritten()
            self._has_written(part, await self._twice(self._store.append, part))
            if not self.is_written:
                return False
        part = self._whole or self._unwritten()
        standing = await self._twice(self._store.keep, part)
        return standing.is_held and standing.has_room

    async def _twice(self, step: _Step, part: Part) -> Standing:
        try:
            return await step(self.key, self.owner, part, self._bounds)
        except ReplayUnavailable:
            # Once more, with what is safe to say twice: it is the answer that was paid.
            await asyncio.sleep(WRITE_EVERY_S)
            return await step(self.key, self.owner, part, self._bounds)


class LocalReader:
    """Somebody's place in a recording that runs here."""

    __slots__ = ("_knows_head", "_recording", "is_own", "offset")

    def __init__(self, recording: Recording, *, is_own: bool) -> None:
        self._recording = recording
        self.is_own = self._knows_head = is_own
        self.offset = 0

    @property
    def error(self) -> GatewayError | None:
        """What was answered instead, if that is so."""
        return self._recording.error

    async def next(self) -> Reading:
        """What comes next; ReplayUnavailable if the store cannot say."""
        reading = await self._recording.after(self.offset, knows_head=self._knows_head)
        self._knows_head = self._knows_head or reading.head is not None
        self.offset += len(reading.data)
        self._recording.has_progressed()
        return reading

    def close(self) -> None:
        self._recording.leave(self)


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
