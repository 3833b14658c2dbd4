"""
Requests with an `Idempotency-Key`: run once, and answered alike for all who ask again.

first      nobody has asked: it is run, what goes out is recorded, and kept when it ends
stored     it was answered: the same is sent, without a call upstream or a charge
in flight  somebody runs it: a whole answer is waited for, and asked for anew if its
           runner dies; for a stream 409, which SDKs retry by themselves when told to
conflict   something else was asked under the key: 422

Kept are complete answers, and what the upstream finally refused. What never reached it,
broke off, or may succeed when it is tried again leaves the key as if it had never been
used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, Self

from gateway.admission import RENEWED_TOGETHER, Admission
from gateway.auth import Principal
from gateway.errors import (
    Header,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    ModelNotFound,
    StoreUnavailable,
    UpstreamError,
    envelope,
)
from gateway.exchange import JSON_TYPE, Exchange
from gateway.ids import new_id
from gateway.replay.fingerprint import fingerprint_of
from gateway.replay.header import IDEMPOTENCY_KEY, read_key
from gateway.replay.recording_wire import RecordingWire
from gateway.routes.door import Parse
from gateway.telemetry import Telemetry
from gateway.translation.port import Translator
from policies.replay.port import (
    Claim,
    Conflict,
    First,
    InFlight,
    KeptAnswer,
    ReplayKey,
    ReplayStore,
    ReplayUnavailable,
    Stored,
)

logger = logging.getLogger(__name__)

# What of an answer's head is the answer's own: the rest is of its moment and caller.
KEPT_HEADERS: Final = frozenset(
    {b"content-type", b"cache-control", b"x-accel-buffering", b"openai-processing-ms"}
)
REPLAYED: Final[Header] = (b"idempotent-replayed", b"true")
ORIGINAL_ID: Final = b"idempotent-original-request-id"

# Refused for what the request is, and so for good. Others of 400 and more are of the
# key, of the moment, or of the load.
FINAL_STATUSES: Final = frozenset({400, 402, 404, 413, 422})

# An answer takes seconds; nobody knows how many.
IN_FLIGHT_RETRY_MS: Final = 1000
# Between two looks at a key that runs: soon at first, then seldom enough that a
# thousand who wait cost the store two thousand calls a second.
LOOK_FIRST_S: Final = 0.05
LOOK_LAST_S: Final = 0.5
UNAVAILABLE_RETRY_MS: Final = 1000

# Three chances to renew within one lease.
RENEWALS_PER_LEASE: Final = 3
# What a store that does not answer may add to a shutdown.
END_TIMEOUT_S: Final = 5.0


class Replays:
    """Every key that runs here, and the store of those that were answered."""

    def __init__(
        self,
        store: ReplayStore,
        *,
        admission: Admission,
        telemetry: Telemetry,
        patience_s: float,
    ) -> None:
        """`patience_s` is how long a whole answer is waited for that somebody runs."""
        self._store = store
        self._patience_s = patience_s
        self._admission = admission
        self._telemetry = telemetry
        self._running: dict[str, ReplayKey] = {}
        self._ending: set[asyncio.Task[Any]] = set()

    def once(self, exchange: Exchange, parse: Parse) -> Once:
        """The request of this exchange, under its key; InvalidRequest if it is none."""
        return Once(self, exchange, read_key(exchange.headers[IDEMPOTENCY_KEY]), parse)

    async def claim(
        self, key: ReplayKey, owner: str, *, is_patient: bool
    ) -> KeptAnswer | None:
        """What was answered, or None where this owner is to run it; or an error."""
        claim = await self._claim(key, owner)
        if is_patient and isinstance(claim, InFlight):
            claim = await self._wait(key, owner)
        match claim:
            case First():
                self._telemetry.replay("first")
                self._running[owner] = key
                return None
            case Stored(answer):
                self._telemetry.replay("stored")
                return answer
            case InFlight():
                self._telemetry.replay("in_flight")
                raise IdempotencyInFlight(
                    "The request with this Idempotency-Key is still running.",
                    retry_after_ms=IN_FLIGHT_RETRY_MS,
                    is_retryable=True,
                )
            case Conflict():
                self._telemetry.replay("conflict")
                raise IdempotencyKeyReused(
                    "This Idempotency-Key was used for another request.",
                    param="Idempotency-Key",
                )

    async def _wait(self, key: ReplayKey, owner: str) -> Claim:
        """What becomes of a key that somebody runs; the first where that one died."""
        loop = asyncio.get_running_loop()
        ends_at_s, pause_s = loop.time() + self._patience_s, LOOK_FIRST_S
        while (left_s := ends_at_s - loop.time()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LOOK_LAST_S)
            claim = await self._claim(key, owner)
            if not isinstance(claim, InFlight):
                return claim
        return InFlight()

    async def _claim(self, key: ReplayKey, owner: str) -> Claim:
        try:
            return await self._store.claim(key, owner)
        except ReplayUnavailable as error:
            if error.is_ambiguous:
                self._end(self._store.release(key, owner))
            raise StoreUnavailable(
                "The gateway cannot tell at the moment whether this Idempotency-Key was"
                " used; try again.",
                retry_after_ms=UNAVAILABLE_RETRY_MS,
                is_retryable=True,
            ) from error
        except BaseException:
            # Cancelled while the answer was on its way: it may have been a yes.
            self._end(self._store.release(key, owner))
            raise

    def end(self, owner: str, answer: KeptAnswer | None, ttl_ms: int) -> None:
        """Keep the answer, or give the key back; not waited for."""
        key = self._running.pop(owner)
        if answer is None:
            self._end(self._store.release(key, owner))
        else:
            self._end(self._store.keep(key, owner, answer, ttl_ms))

    def _end(self, step: Coroutine[Any, Any, Any]) -> None:
        # In a task of its own: whoever ends is often being cancelled.
        task = asyncio.create_task(step)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # The claim ends with its lease, and a retry runs again.
            logger.warning("the end of a keyed request was not kept")

    async def replay(
        self, exchange: Exchange, principal: Principal, answer: KeptAnswer
    ) -> None:
        """Send what was answered, with where the caller's limits stand now."""
        exchange.decided(await self._admission.inspect(principal))
        original = (ORIGINAL_ID, answer.request_id.encode("ascii"))
        headers = (*answer.headers, REPLAYED, original)
        await exchange.respond(answer.status, answer.body, headers)

    async def keep_alive(self) -> None:
        """Renew every claim until cancelled; one task for all of them."""
        while True:
            await asyncio.sleep(self._store.lease_ms / 1000 / RENEWALS_PER_LEASE)
            running = list(self._running.items())
            for first in range(0, len(running), RENEWED_TOGETHER):
                batch = running[first : first + RENEWED_TOGETHER]
                await asyncio.gather(*(self._renew(key, owner) for owner, key in batch))

    async def _renew(self, key: ReplayKey, owner: str) -> None:
        try:
            await self._store.renew(key, owner)
        except ReplayUnavailable:
            pass  # there are more renewals than a claim needs
        except Exception:
            logger.exception("renewing a claim failed")

    async def finish(self) -> None:
        """Wait for the ends under way, before the store is closed."""
        if self._ending:
            await asyncio.wait(list(self._ending), timeout=END_TIMEOUT_S)


class Once:
    """One request under a key; a block that ends by keeping its answer, or the key."""

    def __init__(
        self, replays: Replays, exchange: Exchange, key: str, parse: Parse
    ) -> None:
        self._replays = replays
        self._exchange = exchange
        self._key = key
        self._parse = parse
        self._body_digest = b""
        self._owner = ""
        self._wire: RecordingWire | None = None
        self._ttl_ms = 0

    def parse(self, raw: bytes) -> Translator:
        """The body as the request it is; its digest is taken on the way."""
        translator = self._parse(raw)
        route = self._exchange.record.route
        self._body_digest = fingerprint_of(route, translator.model, raw)
        return translator

    async def claim(
        self, principal: Principal, translator: Translator
    ) -> KeptAnswer | None:
        """What it was answered; None if it is to be run, and recorded, from here."""
        # First, so that an unknown model looks the same whatever else is wrong.
        principal.require(translator.model)
        kept = principal.plan.idempotency
        key = ReplayKey(principal.workspace, self._key, self._body_digest)
        owner = new_id()
        # Who streams is not kept waiting without a word.
        is_patient = not translator.is_stream
        answer = await self._replays.claim(key, owner, is_patient=is_patient)
        if answer is not None:
            return answer
        self._owner, self._ttl_ms = owner, kept.ttl_s * 1000
        exchange = self._exchange
        exchange.wire = self._wire = RecordingWire(exchange.wire, kept.max_answer_bytes)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: object, error: BaseException | None, traceback: object
    ) -> None:
        if self._wire is None:
            return
        answer = self._sent(self._wire) if error is None else self._refused(error)
        self._replays.end(self._owner, answer, self._ttl_ms)

    def _sent(self, wire: RecordingWire) -> KeptAnswer | None:
        if not wire.is_complete or wire.is_too_large:
            return None
        if self._exchange.record.outcome != "ok":
            # Cut short, and the client was told so within the stream.
            return None
        headers = tuple(h for h in wire.sent_headers if h[0] in KEPT_HEADERS)
        return KeptAnswer(wire.status, headers, wire.body, self._exchange.request_id)

    def _refused(self, error: BaseException) -> KeptAnswer | None:
        # A model that only the upstream can say it does not know is an error of ours.
        if not isinstance(error, UpstreamError | ModelNotFound):
            return None
        if error.http_status not in FINAL_STATUSES or self._exchange.is_started:
            return None
        return KeptAnswer(
            error.http_status, (JSON_TYPE,), envelope(error), self._exchange.request_id
        )
