"""
Every request that is run once for all who ask: what runs here, and where the rest is.

One task renews all claims; what is written to the store is written beside the requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from gateway.admission import Admission
from gateway.auth import Principal
from gateway.exchange import Exchange
from gateway.presence import Attendance
from gateway.renewing import keep_renewing
from gateway.replay.asking import Terms
from gateway.replay.delivery import Reader
from gateway.replay.once import Once
from gateway.replay.recording import Recording
from gateway.replay.remote import RemoteAnswers
from gateway.settings import Settings
from gateway.telemetry.metrics import Telemetry
from gateway.translation.port import Parse
from policies.replay.port import (
    Claim,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
)

logger = logging.getLogger(__name__)

# Of one workspace on one replica. They cost a connection each and nobody a charge; what
# comes beyond is told to come back.
MAX_FOLLOWING: Final = 1000

# What a store that does not answer may add to a shutdown.
END_TIMEOUT_S: Final = 5.0


class Replays:
    """What runs here, and the store of what runs elsewhere or was answered."""

    def __init__(
        self,
        store: ReplayStore,
        settings: Settings,
        *,
        admission: Admission,
        attendance: Attendance,
        telemetry: Telemetry,
    ) -> None:
        self.store = store
        self.settings = settings
        self.admission = admission
        self.attendance = attendance
        self.telemetry = telemetry
        self.remote = RemoteAnswers(store)
        self.running: dict[str, Recording] = {}
        # How many requests wait for somebody else's answer, or are sent it; by
        # workspace, because no limit of a plan counts them.
        self.following: Counter[str] = Counter()
        self._beside: set[asyncio.Task[Any]] = set()

    def once(self, exchange: Exchange, principal: Principal, parse: Parse) -> Once:
        """The request of this exchange, of which `may_have_terms` holds."""
        return Once(self, exchange, principal, parse)

    async def claim(self, terms: Terms, owner: str) -> Claim:
        """What the store says of a key; ReplayUnavailable."""
        store, key = self.store, terms.key
        try:
            return await store.claim(key, owner, replaces=terms.is_fresh)
        except ReplayUnavailable as error:
            if error.is_ambiguous:
                self.run_beside(store.release(key, owner))
            raise
        except BaseException:
            # Cancelled while the answer was on its way: it may have been a yes.
            self.run_beside(store.release(key, owner))
            raise

    def record(self, terms: Terms, owner: str, runner: str) -> Recording:
        """What this owner's answer is written to; renewed until it has ended."""
        recording = self.running[owner] = Recording(
            self.store,
            self.remote,
            terms.key,
            owner,
            terms.bounds,
            runner=runner,
            run_beside=self.run_beside,
            on_end=self._forget,
            on_lost=self.telemetry.claim_lost,
        )
        return recording

    @property
    def recordings(self) -> int:
        """Answers that run here and are recorded."""
        return len(self.running)

    @property
    def followers(self) -> int:
        """Requests that wait for somebody else's answer, or are sent it."""
        return sum(self.following.values())

    @property
    def held_bytes(self) -> int:
        """What is on its way of the answers that run here."""
        return sum(recording.held_bytes for recording in self.running.values())

    def _forget(self, recording: Recording) -> None:
        del self.running[recording.owner]

    @contextmanager
    def reading(self, key: ReplayKey, recording: str) -> Iterator[Reader | None]:
        """
        A reader of an answer, from where it runs or from the store.

        None where the workspace has as many here as it may.
        """
        if self.following[key.workspace] >= MAX_FOLLOWING:
            yield None
            return
        self.following[key.workspace] += 1
        here = self.running.get(recording)
        reader: Reader = (
            self.remote.read(key, recording) if here is None else here.read()
        )
        try:
            yield reader
        finally:
            reader.close()
            self.following[key.workspace] -= 1
            if not self.following[key.workspace]:
                del self.following[key.workspace]

    def run_beside(self, step: Coroutine[Any, Any, None]) -> None:
        """Run in a task of its own: whoever ends is often being cancelled."""
        task = asyncio.create_task(step)
        self._beside.add(task)
        task.add_done_callback(self._has_run)

    def _has_run(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ReplayUnavailable):
            # The claim ends with its lease, and a retry runs again.
            logger.warning("the end of a keyed request was not kept")
        elif error is not None:
            logger.error("keeping an answer failed", exc_info=error)

    async def keep_alive(self) -> None:
        """Renew every claim until cancelled."""
        ttl_ms = self.store.lease_ms
        await keep_renewing(self.running.values, self._renew, ttl_ms=ttl_ms)

    async def _renew(self, recording: Recording) -> None:
        try:
            await recording.renew()
        except Exception:
            logger.exception("renewing a claim failed")

    async def finish(self) -> None:
        """Wait for what is being written, before the store is closed."""
        if self._beside:
            await asyncio.wait(list(self._beside), timeout=END_TIMEOUT_S)
