"""
The way of an answer to the store, piece by piece, and what becomes of its key.

Each step can be lost, and is repeated as it was: the store knows by the place where a
piece begins whether it has it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from policies.replay.port import (
    Bounds,
    Part,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
    Standing,
)

if TYPE_CHECKING:
    from gateway.replay.recording import Recording

logger = logging.getLogger(__name__)

# A piece is written when it has this size, or is this old: by itself, or followed.
PIECE_BYTES: Final = 16 * 1024
WRITE_EVERY_S: Final = 0.5
WRITE_FOLLOWED_EVERY_S: Final = 0.05

# Handed out, or written, at once: hundreds of readers and writers have as much each.
AT_ONCE_BYTES: Final = 32 * 1024

# Whether an answer is kept at its end.
Keeps: TypeAlias = Literal["yes", "if_followed", "no"]
_Step: TypeAlias = Callable[[ReplayKey, str, Part, Bounds], Awaitable[Standing]]


class Writer:
    """Writes one recording, and holds its claim."""

    def __init__(
        self,
        recording: Recording,
        store: ReplayStore,
        bounds: Bounds,
        run_beside: Callable[[Coroutine[Any, Any, None]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._on_lost = on_lost
        self._recording = recording
        self._key, self._owner = recording.key, recording.owner
        self._store = store
        self._bounds = bounds
        self._run_beside = run_beside
        # How much of the answer the store has; False once it takes no more.
        self.written = 0
        self.is_writing = True
        self.is_followed_elsewhere = False
        # The answer, where it came in one piece: that is written at its end.
        self.whole: Part | None = None
        self._is_head_written = self._is_lost = self._is_failing = False
        self._is_ending = False
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        # What was sent and may have arrived: sent again as it was, or it is a gap.
        self._unanswered: Part | None = None

    def write_later(self) -> None:
        if self._writing is not None or self._recording.is_over:
            return  # whoever writes looks whether there is more
        # Also the rest of a large piece, for which the upstream is made to wait.
        is_due = self._recording.end - self.written >= PIECE_BYTES
        if (is_due or self._recording.is_full) and not self._is_failing:
            self._write_now()
        elif self._timer is None:
            is_soon = self._recording.is_followed and not self._is_failing
            every_s = WRITE_FOLLOWED_EVERY_S if is_soon else WRITE_EVERY_S
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(every_s, self._write_now)

    def _write_now(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing is None and self.is_writing and not self._recording.is_over:
            self._writing = _future()
            self._run_beside(self._write(self._writing))

    @property
    def _has_unwritten(self) -> bool:
        return self.written < self._recording.end or self._is_head_unwritten

    @property
    def _is_head_unwritten(self) -> bool:
        return self._recording.head is not None and not self._is_head_written

    def _to_write(self) -> Part:
        if self._unanswered is None:
            recording, start = self._recording, self.written
            data = recording.since(start) if start < recording.end else b""
            head = recording.head if self._is_head_unwritten else None
            self._unanswered = Part(start, data, head)
        return self._unanswered

    async def _write(self, done: asyncio.Future[None]) -> None:
        part, standing = self._to_write(), None
        try:
            standing = await self._store.append(
                self._key, self._owner, part, self._bounds
            )
        except ReplayUnavailable:
            self._is_failing = True
            if self._recording.is_full:
                self.give_up()
        finally:
            self._writing = None
            done.set_result(None)
        if standing is not None:
            self._has_written(part, standing)
        self._recording.has_progressed()
        if self.is_writing and self._has_unwritten:
            self.write_later()

    def _has_written(self, part: Part, standing: Standing) -> None:
        self._unanswered, self._is_failing = None, False
        self._hear(standing)
        if standing.is_held and not standing.has_room:
            self.give_up()
        elif standing.is_held:
            self.written = part.end
            self._is_head_written |= part.head is not None
            self._recording.has_progressed()

    def _hear(self, standing: Standing) -> None:
        self.is_followed_elsewhere = standing.is_followed
        if not standing.is_held and not self._is_lost:
            facts = {"workspace": self._key.workspace, "recording": self._owner}
            logger.warning("a claim was lost while it ran", extra={"facts": facts})
            self._is_lost, self.is_writing = True, False
            self._on_lost()
            # Whoever waited for the store waits for its client from here.
            self._recording.has_progressed()

    async def renew(self) -> None:
        """Keep its claim alive, and hear whether anybody follows."""
        if self._is_lost or self._is_ending:
            return
        was_followed = self._recording.is_followed
        try:
            standing = await self._store.append(
                self._key, self._owner, Part(self.written), self._bounds
            )
        except ReplayUnavailable:
            return  # there are more renewals than a claim needs
        if not self._is_ending:
            self._hear(standing)
        if self._recording.is_followed and not was_followed:
            self._write_now()

    def give_up(self) -> None:
        """
        Too much to be kept: from now on it is passed on, and written no more.

        What was written stays for those who are behind, until the answer ends.
        """
        if self.is_writing:
            self.is_writing = False
            self._run_beside(self._store.withdraw(self._key, self._owner))

    async def end(self, keeps: Keeps) -> None:
        """Keep the answer, or give the key back once its client has all of it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await self._writing
        if keeps == "if_followed":
            await self.renew()
            keeps = "yes" if self._recording.is_followed else "no"
        if keeps == "no" or not self._can_keep or not await self._keep():
            await self._release()

    @property
    def _can_keep(self) -> bool:
        if self.whole is None:
            return self.is_writing
        # Also where its claim was lost: it needs none, unless somebody has the key.
        return len(self.whole.data) <= self._bounds.max_answer_bytes

    async def _release(self) -> None:
        self._is_ending = False
        if self._recording.own_lags:
            # Until it has what is only there, nobody else may begin.
            await self._store.withdraw(self._key, self._owner)
            while self._recording.own_lags:
                await self._recording.next_progress()
        self._is_ending = True
        await self._store.release(self._key, self._owner)

    async def _keep(self) -> bool:
        """Write what is left of it, the last of it as such; False if it is not kept."""
        while self.whole is None and (
            self._unanswered is not None
            or self._recording.end - self.written > AT_ONCE_BYTES
        ):
            part = self._to_write()
            self._has_written(part, await self._twice(self._store.append, part))
            if not self.is_writing:
                return False
        self._is_ending = True
        part = self.whole or self._to_write()
        standing = await self._twice(self._store.keep, part)
        return standing.is_held and standing.has_room

    async def _twice(self, step: _Step, part: Part) -> Standing:
        try:
            return await step(self._key, self._owner, part, self._bounds)
        except ReplayUnavailable:
            # Once more, with what is safe to say twice: it is the answer that was paid.
            await asyncio.sleep(WRITE_EVERY_S)
            return await step(self._key, self._owner, part, self._bounds)


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()
