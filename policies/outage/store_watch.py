"""
Who asks whether the store is back, counts the replicas, and sends what is due.

Three tasks beside the requests. They are silent but at the transitions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import SystemRandom
from typing import Final

from policies.outage.courier import Courier
from policies.outage.journal import Journal
from policies.outage.replicas import Replicas
from policies.outage.store_health import StoreHealth
from policies.store.errors import StoreUnavailable
from policies.store.store import Store

logger = logging.getLogger(__name__)

# A quarter of a second notices the end of a moment's fail-over; later, a second is
# seldom enough that hundreds of replicas do not keep a starting server busy.
PROBE_FIRST_S: Final = 0.25
PROBE_LAST_S: Final = 1.0
# Between two tries to send what the store did not take.
RESEND_FIRST_S: Final = 0.1
RESEND_LAST_S: Final = 5.0


async def _ever_again(loop: Callable[[], Awaitable[None]]) -> None:
    """Run an endless loop; a bug in it must not end what it watches over."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("a task beside the requests failed, and goes on")
            await asyncio.sleep(RESEND_FIRST_S)


class StoreWatch:
    """The background of a guarded ledger."""

    def __init__(
        self,
        store: Store,
        *,
        health: StoreHealth,
        replicas: Replicas,
        courier: Courier,
        journal: Journal,
        clock_us: Callable[[], int],
        returned: Callable[[], None],
        sweep: Callable[[], None],
    ) -> None:
        """`returned` hears when the store is trusted again, `sweep` time pass."""
        self._store = store
        self._health = health
        self._replicas = replicas
        self._courier = courier
        self._journal = journal
        self._clock_us = clock_us
        self._returned = returned
        self._sweep = sweep
        self._random = SystemRandom()
        self._tasks: list[asyncio.Task[None]] = []
        self._is_catching_up = False

    def start(self) -> None:
        """Begin to watch; `stop` ends it."""
        loops = (self._probe_forever, self._beat_forever, self._send_forever)
        self._tasks = [asyncio.create_task(_ever_again(loop)) for loop in loops]

    async def stop(self) -> None:
        """End the tasks; what is not sent stays in the journal."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _probe_forever(self) -> None:
        pause_s = PROBE_FIRST_S
        while True:
            await self._health.wait_opened()
            wait_s = self._jittered(pause_s)
            self._health.next_probe_us = self._clock_us() + int(wait_s * 1e6)
            await asyncio.sleep(wait_s)
            await self._probe()
            is_back = self._health.is_closed
            pause_s = PROBE_FIRST_S if is_back else min(2 * pause_s, PROBE_LAST_S)

    async def _probe(self) -> None:
        try:
            await self._store.ping()
            self._health.begin_recovery()
            # A write: what can only be read is no ledger.
            await self._count()
            told = await self._courier.tell_all()
        except StoreUnavailable as error:
            self._health.fail_recovery(error.reason)
        except Exception:
            # A bug of ours or a strange server; while it lasts, shares hold.
            logger.exception("the store answers, but cannot be recovered")
            self._health.fail_recovery("error")
        else:
            self._close(told)
            await self._catch_up()

    async def _count(self) -> None:
        asked_us = self._clock_us()
        try:
            await self._replicas.beat()
        except StoreUnavailable as error:
            if error.is_outage:
                raise
            # Not the ledger's data: it goes on with the count it has.
            self._health.failed(error, asked_us=asked_us)

    def _close(self, told: int) -> None:
        away_us = self._health.close()
        self._returned()
        self._is_catching_up = self._journal.depth > 0
        facts = {
            "away_s": round(away_us / 1e6, 3),
            "leases_told": told,
            "settlements_queued": self._journal.depth,
        }
        logger.warning("the store is back, limits are exact", extra={"facts": facts})

    async def _catch_up(self) -> None:
        """Tell it of what was admitted by a share while the recovery went on."""
        try:
            await self._courier.tell_all()
        except StoreUnavailable:
            # Noted where it failed; the leases' renewals or ends will tell it.
            return
        except Exception:
            # The next outage has to end too, so this task may not.
            logger.exception("what was admitted meanwhile could not be told")

    async def _beat_forever(self) -> None:
        while True:
            await self._health.wait_closed()
            await self._beat()
            self._sweep()
            # Not heard yet, it is asked as often as after a loss: a replica that starts
            # without its store is to know it within a second, not within three beats.
            was_heard = self._health.breaker.was_heard
            await asyncio.sleep(
                self._replicas.interval_s if was_heard else PROBE_FIRST_S
            )

    async def _beat(self) -> None:
        asked_us = self._clock_us()
        try:
            await self._replicas.beat()
        except StoreUnavailable as error:
            self._health.failed(error, asked_us=asked_us)
        except Exception:
            logger.exception("the replicas cannot be counted")
        else:
            self._health.succeeded(asked_us=asked_us)

    async def _send_forever(self) -> None:
        pause_s = 0.0
        while True:
            await self._journal.wait()
            await self._health.wait_for_settlements()
            if await self._journal.send_batch(self._courier.send):
                pause_s = min(max(RESEND_FIRST_S, 2 * pause_s), RESEND_LAST_S)
                await asyncio.sleep(self._jittered(pause_s))
                continue
            pause_s = 0.0
            if self._is_catching_up and not self._journal.depth:
                self._is_catching_up = False
                logger.warning("the store has every settlement it missed")

    def _jittered(self, pause_s: float) -> float:
        """So that the replicas do not all ask at the same instant."""
        return pause_s * (0.75 + self._random.random() / 2)
