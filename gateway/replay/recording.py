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
from typing import Any, Final, Literal, TypeAlias

from gateway.errors import GatewayError, Outcome, UpstreamError
from gateway.replay.remote import RemoteAnswers
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

# Whether an answer is kept at its end.
Keeps: TypeAlias = Literal["yes", "if_followed", "no"]
_Step: TypeAlias = Callable[[ReplayKey, str, Part, Bounds], Awaitable[Standing]]


class Recording:
    """One answer: fed by the request that runs it, read by everybody who waits."""

    def __init__(
        self,
        store: ReplayStore,
        remote: RemoteAnswers,
        key: ReplayKey,
        owner: str,
        bounds: Bounds,
        *,
        runner: str,
        run_beside: Callable[[Coroutine[Any, Any, None]], None],
        on_end: Callable[[Recording], None],
    ) -> None:
        """`runner` is the API key that pays for it."""
        self.key = key
        self.owner = owner
        self.runner = runner
        self.head: AnswerHead | None = None
        # How it came to its end, once it has; `error` where one came instead.
        self.outcome: Outcome | None = None
        self.error: GatewayError | None = None
        self.is_over = False
        self._store = store
        self._remote = remote
        self._bounds = bounds
        self._run_beside = run_beside
        self._on_end = on_end
        self._chunks: list[tuple[int, bytes]] = []
        # Of the answer's body: what is here begins, what the store has ends, all ends.
        self._begin = self._written = self.end = 0
        self._whole: Part | None = None
        self._own: LocalReader | None = None
        self._followers = 0
        self._is_followed_elsewhere = False
        self._news: asyncio.Future[None] | None = None
        self._progress: asyncio.Future[None] | None = None
        # Whether it is written to the store, and can be kept.
        self.is_written = True
        self._is_head_written = self._is_lost = self._is_failing = False
        self._is_being_kept = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        # What was sent and may have arrived: sent again as it was, or it is a gap.
        self._unanswered: Part | None = None

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
    def held_bytes(self) -> int:
        """What of it is here."""
        return self.end - self._begin

    @property
    def is_full(self) -> bool:
        """Whether more is on its way than is wanted: by the store, or its client."""
        if self.is_written:
            return self.held_bytes > HIGH_WATER_BYTES
        own = self._own
        return own is not None and self.end - own.offset > HIGH_WATER_BYTES

    async def room(self) -> None:
        """Until it is not full."""
        while self.is_full:
            await self._next_progress()

    def whole(self, head: AnswerHead, body: bytes, outcome: Outcome) -> None:
        """All of the answer at once, which is written when it is closed."""
        self.head, self._whole = head, Part(0, body, head)
        self._chunks, self.end = [(0, body)], len(body)
        self.is_written = len(body) <= self._bounds.max_answer_bytes
        self.complete(outcome)

    def complete(self, outcome: Outcome) -> None:
        """The answer has come to its end; whether it is kept is said by `close`."""
        self.outcome = outcome
        self._tell_news()

    def close(self, error: GatewayError | None, keeps: Keeps) -> None:
        """Nothing more comes: it is kept, or the key is given back."""
        self.is_over, self.error = True, error
        if self._timer is not None:
            self._timer.cancel()
        self._tell_news()
        self._tell_progress()
        self._run_beside(self._end(keeps))

    # Who reads.

    @property
    def is_followed(self) -> bool:
        """Whether anybody but its own client waits for it."""
        return self._is_followed_elsewhere or self._followers > 0

    def read(self, *, is_own: bool = False) -> LocalReader:
        """A reader from the answer's begin, to be closed; the runner's own, or else."""
        reader = LocalReader(self, is_own=is_own)
        if is_own:
            self._own = reader
        else:
            self._followers += 1
        return reader

    def leave(self, reader: LocalReader) -> None:
        if reader is self._own:
            self._own = None
        elif not reader.is_own:
            self._followers -= 1
        self.has_progressed()

    async def after(self, offset: int, *, knows_head: bool) -> Reading:
        """What follows this place, as soon as there is something."""
        while True:
            if offset < self._begin:
                return await self._remote.after((self.key, self.owner, offset, True))
            if offset < self.end:
                return Reading("running", self.head, self._since(offset))
            if self.outcome is not None:
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
    def _own_lags(self) -> bool:
        """Whether its client still reads from the store what is here no longer."""
        return self._own is not None and self._own.offset < self._begin

    def has_progressed(self) -> None:
        """Somebody has read, written or left: there may be room again."""
        if not self.is_written:
            self._trim()
        if not self.is_full:
            self._tell_progress()

    async def _next_progress(self) -> None:
        self._progress = self._progress or _future()
        await asyncio.shield(self._progress)

    def _tell_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.set_result(None)

    def _tell_news(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)

    def _trim(self) -> None:
        """
        Forget what the store has; or, where it takes no more, what its client has read.

        Who follows such an answer keeps up with its client, or loses it.
        """
        if self.is_written:
            until = self._written
        else:
            until = self.end - HIGH_WATER_BYTES if self._followers else self.end
            if self._own is not None:
                until = min(until, self._own.offset)
        chunks, gone = self._chunks, 0
        while gone < len(chunks) and chunks[gone][0] + len(chunks[gone][1]) <= until:
            gone += 1
        del chunks[:gone]
        self._begin = max(self._begin, chunks[0][0] if chunks else until)

    # The way to the store.

    def _write_later(self) -> None:
        if self._writing is not None or self.is_over:
            return  # whoever writes looks whether there is more
        if self.end - self._written >= PIECE_BYTES and not self._is_failing:
            self._write_now()
        elif self._timer is None:
            is_soon = self.is_followed and not self._is_failing
            every_s = WRITE_FOLLOWED_EVERY_S if is_soon else WRITE_EVERY_S
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

    def _to_write(self) -> Part:
        if self._unanswered is None:
            data = self._since(self._written) if self._written < self.end else b""
            head = self.head if self._is_head_unwritten else None
            self._unanswered = Part(self._written, data, head)
        return self._unanswered

    async def _write(self, done: asyncio.Future[None]) -> None:
        part, standing = self._to_write(), None
        try:
            standing = await self._store.append(
                self.key, self.owner, part, self._bounds
            )
        except ReplayUnavailable:
            self._is_failing = True
            if self.is_full:
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
        self._unanswered, self._is_failing = None, False
        self._hear(standing)
        if standing.is_held and not standing.has_room:
            self._give_up()
        elif standing.is_held:
            self._written = part.end
            self._is_head_written |= part.head is not None
            self._trim()

    def _hear(self, standing: Standing) -> None:
        self._is_followed_elsewhere = standing.is_followed
        if not standing.is_held and not self._is_lost:
            facts = {"workspace": self.key.workspace, "recording": self.owner}
            logger.warning(
                "the claim of a request was lost while it ran", extra={"facts": facts}
            )
            self._is_lost, self.is_written = True, False

    async def renew(self) -> None:
        """Keep its claim alive, and hear whether anybody follows."""
        if self._is_lost or self._is_being_kept:
            return
        was_followed = self.is_followed
        try:
            standing = await self._store.append(
                self.key, self.owner, Part(self._written), self._bounds
            )
        except ReplayUnavailable:
            return  # there are more renewals than a claim needs
        if not self._is_being_kept:
            self._hear(standing)
        if self.is_followed and not was_followed:
            self._write_now()

    def _give_up(self) -> None:
        """
        Too much to be kept: from now on it is passed on, and written no more.

        What was written stays for those who are behind, until the answer ends.
        """
        if self.is_written:
            self.is_written = False
            self._run_beside(self._store.withdraw(self.key, self.owner))

    async def _end(self, keeps: Keeps) -> None:
        try:
            if self._writing is not None:
                await self._writing
            if keeps == "if_followed":
                await self.renew()
                keeps = "yes" if self.is_followed else "no"
            if keeps == "no" or not self.is_written or not await self._keep():
                await self._release()
        finally:
            self._on_end(self)

    async def _release(self) -> None:
        self._is_being_kept = False
        if self._own_lags:
            # Until it has what is only there, nobody else may begin.
            await self._store.withdraw(self.key, self.owner)
            while self._own_lags:
                await self._next_progress()
        await self._store.release(self.key, self.owner)

    async def _keep(self) -> bool:
        """Write what is left of it, the last of it as such; False if it is not kept."""
        while self._whole is None and (
            self._unanswered is not None or self.end - self._written > AT_ONCE_BYTES
        ):
            part = self._to_write()
            self._has_written(part, await self._twice(self._store.append, part))
            if not self.is_written:
                return False
        self._is_being_kept = True
        part = self._whole or self._to_write()
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

    __slots__ = ("_is_closed", "_knows_head", "_recording", "is_own", "offset")

    def __init__(self, recording: Recording, *, is_own: bool) -> None:
        self._recording = recording
        self.is_own = self._knows_head = is_own
        self.offset = 0
        self._is_closed = False

    @property
    def outcome(self) -> Outcome | None:
        """How it came to its end."""
        return self._recording.outcome

    def error_for(self, api_key: str) -> GatewayError | None:
        """
        What was answered instead, if that concerns the owner of this key as well.

        What the upstream says is for everybody; limits may be of one key.
        """
        error = self._recording.error
        is_of_all = isinstance(error, UpstreamError)
        return error if is_of_all or api_key == self._recording.runner else None

    async def next(self) -> Reading:
        """What comes next; ReplayUnavailable if the store cannot say."""
        reading = await self._recording.after(self.offset, knows_head=self._knows_head)
        self._knows_head = self._knows_head or reading.head is not None
        self.offset += len(reading.data)
        if self.is_own:
            self._recording.has_progressed()
        return reading

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._recording.leave(self)


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
