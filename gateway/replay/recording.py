"""
The answer of a request that runs here, as it grows.

What comes is handed to whoever reads along, and written to the store in pieces, soon if
somebody follows there, else seldom. What was written is forgotten here: a reader that
lags behind that reads it from the store. So a recording holds what is on its way, and
not the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from gateway.errors import GatewayError, Outcome, UpstreamError
from gateway.replay.remote import RemoteAnswers
from gateway.replay.writing import AT_ONCE_BYTES, Keeps, Writer
from policies.replay.port import (
    AnswerHead,
    Bounds,
    Part,
    Reading,
    ReplayKey,
    ReplayStore,
)

# Of an answer on its way. Beyond it the upstream is made to wait.
HIGH_WATER_BYTES: Final = 64 * 1024


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
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """
        `runner` is the API key that pays for it; `on_lost` hears of its claim's loss.
        """
        self.key = key
        self.owner = owner
        self.runner = runner
        self.head: AnswerHead | None = None
        # How it came to its end, once it has; `error` where one came instead.
        self.outcome: Outcome | None = None
        self.error: GatewayError | None = None
        self.is_over = False
        self._remote = remote
        self._bounds = bounds
        self._run_beside = run_beside
        self._on_end = on_end
        self._chunks: list[tuple[int, bytes]] = []
        # Of the answer's body: what is here begins, and all of it ends.
        self._begin = self.end = 0
        self._own: LocalReader | None = None
        self._followers = 0
        self._news: asyncio.Future[None] | None = None
        self._progress: asyncio.Future[None] | None = None
        self._writer = Writer(self, store, bounds, run_beside, on_lost)

    # What the request that runs does.

    def begin(self, head: AnswerHead) -> None:
        """The answer's head is known."""
        self.head = head
        self._tell_news()
        self._writer.write_later()

    def add(self, data: bytes) -> None:
        """More of the answer's body."""
        if not data:
            return
        self._chunks.append((self.end, data))
        self.end += len(data)
        if self.end > self._bounds.max_answer_bytes:
            self._writer.give_up()
        if self.is_written:
            self._writer.write_later()
        else:
            self._trim()
        self._tell_news()

    @property
    def is_written(self) -> bool:
        """Whether it is written to the store, and can be kept."""
        return self._writer.is_writing

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
            await self.next_progress()

    def whole(self, head: AnswerHead, body: bytes, outcome: Outcome) -> None:
        """All of the answer at once, which is written when it is closed."""
        self.head = head
        self._chunks, self.end = [(0, body)], len(body)
        self._writer.whole = Part(0, body, head)
        self.complete(outcome)

    def complete(self, outcome: Outcome) -> None:
        """The answer has come to its end; whether it is kept is said by `close`."""
        self.outcome = outcome
        self._tell_news()

    def close(self, error: GatewayError | None, keeps: Keeps) -> None:
        """Nothing more comes: it is kept, or the key is given back."""
        self.is_over, self.error = True, error
        self._tell_news()
        self._tell_progress()
        self._run_beside(self._end(keeps))

    async def _end(self, keeps: Keeps) -> None:
        try:
            await self._writer.end(keeps)
        finally:
            self._on_end(self)

    async def renew(self) -> None:
        """Keep its claim alive, and hear whether anybody follows."""
        await self._writer.renew()

    # Who reads.

    @property
    def is_followed(self) -> bool:
        """Whether anybody but its own client waits for it."""
        return self._writer.is_followed_elsewhere or self._followers > 0

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
                # Who reads here is counted here, and its own client follows nobody.
                place = (self.key, self.owner, offset, True, False)
                return await self._remote.after(place)
            if offset < self.end:
                return Reading("running", self.head, self.since(offset))
            if self.outcome is not None:
                return Reading("complete", self.head)
            if self.is_over:
                return Reading("gone", self.head)
            if self.head is not None and not knows_head:
                return Reading("running", self.head)
            self._news = self._news or _future()
            await asyncio.shield(self._news)

    def since(self, offset: int) -> bytes:
        """What follows this place and is here, or the beginning of it."""
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
    def own_lags(self) -> bool:
        """Whether its client still reads from the store what is here no longer."""
        return self._own is not None and self._own.offset < self._begin

    def has_progressed(self) -> None:
        """Somebody has read, written or left: there may be room again."""
        self._trim()
        if self.is_over or not self.is_full:
            self._tell_progress()

    async def next_progress(self) -> None:
        """Until somebody has, and there is room, or it is over."""
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
            until = self._writer.written
        else:
            until = self.end - HIGH_WATER_BYTES if self._followers else self.end
            if self._own is not None:
                until = min(until, self._own.offset)
        chunks, gone = self._chunks, 0
        while gone < len(chunks) and chunks[gone][0] + len(chunks[gone][1]) <= until:
            gone += 1
        del chunks[:gone]
        self._begin = max(self._begin, chunks[0][0] if chunks else until)


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
