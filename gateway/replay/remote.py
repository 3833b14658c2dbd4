"""
Answers that run, or were given, elsewhere: read from the store.

Whoever waits for the same place in the same answer shares one look at the store, so a
thousand who follow one answer cost as much as one.
"""

from __future__ import annotations

import asyncio
from typing import Final, TypeAlias

from gateway.errors import GatewayError, Outcome
from policies.replay.port import (
    Reading,
    ReplayDamaged,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
)

# Between two looks at an answer that grows: soon at first, then as seldom as is still
# followed live. Where nothing comes for long, a second more is not noticed.
LOOK_FIRST_S: Final = 0.02
LOOK_LAST_S: Final = 0.25

# The last say whether its head is known, and whether its runner is to hear of it.
_Place: TypeAlias = tuple[ReplayKey, str, int, bool, bool]


class _Look:
    """One wait for what follows a place, and how many share it."""

    __slots__ = ("sharing", "task")

    def __init__(self, task: asyncio.Task[Reading]) -> None:
        self.task = task
        self.sharing = 0


class RemoteAnswers:
    """Reads answers from the store, for everybody on this replica."""

    def __init__(self, store: ReplayStore) -> None:
        self._store = store
        self._looks: dict[_Place, _Look] = {}

    def read(self, key: ReplayKey, recording: str) -> RemoteReader:
        """A reader from the answer's begin, to be closed."""
        return RemoteReader(self, key, recording)

    async def after(self, place: _Place) -> Reading:
        """What follows this place, as soon as there is something."""
        look = self._looks.get(place)
        if look is None:
            task = asyncio.create_task(self._look(*place))
            look = self._looks[place] = _Look(task)
        look.sharing += 1
        try:
            return await asyncio.shield(look.task)
        finally:
            look.sharing -= 1
            if not look.sharing:
                look.task.cancel()
                if self._looks.get(place) is look:
                    del self._looks[place]

    async def _look(
        self,
        key: ReplayKey,
        recording: str,
        offset: int,
        knows_head: bool,
        follows: bool,
    ) -> Reading:
        loop = asyncio.get_running_loop()
        pause_s = LOOK_FIRST_S
        # As long as a runner may be out of reach, so may the store.
        failing_until_s = 0.0
        while True:
            try:
                reading = await self._store.read(
                    key, recording, offset, follows=follows
                )
            except ReplayDamaged:
                raise
            except ReplayUnavailable:
                failing_until_s = failing_until_s or (
                    loop.time() + self._store.lease_ms / 1000
                )
                if loop.time() >= failing_until_s:
                    raise
            else:
                failing_until_s = 0.0
                is_news = reading.head is not None and not knows_head
                if reading.data or reading.state != "running" or is_news:
                    return reading
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LOOK_LAST_S)


class RemoteReader:
    """Somebody's place in an answer that is read from the store."""

    # What became of it is known where it ran.
    outcome: Outcome | None = None

    def __init__(self, answers: RemoteAnswers, key: ReplayKey, recording: str) -> None:
        self._answers = answers
        self._key = key
        self._recording = recording
        self.offset = 0
        self._knows_head = False

    def error_for(self, api_key: str) -> GatewayError | None:
        """Nothing, for the same reason."""
        del api_key
        return None

    async def next(self) -> Reading:
        """What comes next; ReplayUnavailable if the store cannot say."""
        place = (self._key, self._recording, self.offset, self._knows_head, True)
        reading = await self._answers.after(place)
        self._knows_head = self._knows_head or reading.head is not None
        self.offset += len(reading.data)
        return reading

    def close(self) -> None:
        """Nothing is held between two reads."""
