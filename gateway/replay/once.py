"""
One request that is run once for all who ask: it runs, or is answered as another was.

first      nobody has asked: it is run, what goes out is recorded, and kept when it ends
stored     it was answered: the same is sent, without a call upstream or a charge
in flight  somebody runs it, here or on another replica: what was sent is sent, and then
           what comes; if its runner dies before anything was sent, it is run here
conflict   something else was asked under the key: 422

Kept are complete answers, and what the upstream finally refused. What never reached it,
broke off, or may succeed when it is tried again leaves the key as if it had never been
used.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from gateway.auth import Principal
from gateway.errors import (
    AnswerInterrupted,
    ClientGone,
    GatewayError,
    Header,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    ModelNotFound,
    ShuttingDown,
    StoreUnavailable,
    UpstreamError,
    envelope,
)
from gateway.exchange import JSON_TYPE, Exchange
from gateway.ids import new_id
from gateway.presence import Presence
from gateway.replay.asking import Terms, terms_of
from gateway.replay.delivery import Reader, collect, deliver, end_in
from gateway.replay.fingerprint import asked_of
from gateway.replay.recording import Recording
from gateway.replay.recording_wire import RecordingWire
from gateway.translation.port import Parse, Translator
from gateway.wire import Wire
from policies.replay.port import (
    AnswerHead,
    Conflict,
    First,
    InFlight,
    Reading,
    ReplayOutcome,
    ReplayUnavailable,
    Stored,
)

if TYPE_CHECKING:
    from gateway.replay.replays import Replays

REPLAYED: Final[Header] = (b"idempotent-replayed", b"true")
ORIGINAL_ID: Final = b"idempotent-original-request-id"
CACHE_HIT: Final[Header] = (b"x-cache", b"hit")
CACHE_MISS: Final[Header] = (b"x-cache", b"miss")

# Refused for what the request is, and so for good. Others of 400 and more are of the
# key, of the moment, or of the load.
FINAL_STATUSES: Final = frozenset({400, 402, 404, 413, 422})

# An answer takes seconds; nobody knows how many.
IN_FLIGHT_RETRY_MS: Final = 1000
UNAVAILABLE_RETRY_MS: Final = 1000
# Between two looks at whether somebody follows a request whose client has left.
FOLLOWED_LOOK_S: Final = 1.0


class Once:
    """
    A request in a block, whose end keeps its answer or gives the key back.

    `answered` says whether somebody else's answer was sent. Otherwise it is to be run
    in the block, and all that is sent then is recorded.
    """

    def __init__(
        self, replays: Replays, exchange: Exchange, principal: Principal, parse: Parse
    ) -> None:
        self._replays = replays
        self._exchange = exchange
        self._principal = principal
        self._parse = parse
        self._terms: Terms | None = None
        self._wire: Wire = exchange.wire
        self._recording: Recording | None = None
        self._left_s: float | None = None

    def parse(self, raw: bytes) -> Translator:
        """The body as the request it is; its digest is taken on the way."""
        translator = self._parse(raw)
        asked = asked_of(self._exchange.record.route, translator.model, raw)
        self._terms = terms_of(self._exchange.headers, self._principal, asked)
        return translator

    @property
    def lease_id(self) -> str | None:
        """What its lease is to be called, so that its charge is found if we die."""
        return self._recording.owner if self._recording is not None else None

    async def answered(self, translator: Translator, presence: Presence) -> bool:
        """Whether it was answered as another was; else it is to be run from here."""
        terms = self._terms
        if terms is None:
            return False
        # First, so that an unknown model looks the same whatever else is wrong.
        self._principal.require(translator.model)
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self._replays.settings.upstream_total_timeout_s
        while (claim := await self._claim(terms)) is not None:
            outcome: ReplayOutcome = "stored" if isinstance(claim, Stored) else "joined"
            reader = self._replays.read(terms.key, claim.recording)
            self._replays.following += 1
            try:
                if await self._follow(reader, terms, presence):
                    self._note(outcome)
                    return True
            except ReplayUnavailable as error:
                if terms.scope == "key":
                    raise unavailable() from error
                break
            finally:
                self._replays.following -= 1
                reader.close()
            if loop.time() > ends_at_s:
                raise self._in_flight()
        if terms.scope == "cache":
            self._exchange.add_headers((CACHE_MISS,))
        if self._recording is None:
            self._note("alone")
        else:
            presence.outlive_client(self._run_on_s)
        return False

    async def _claim(self, terms: Terms) -> Stored | InFlight | None:
        """Whose answer it is to have; None if it is to be run."""
        owner = new_id()
        try:
            claim = await self._replays.claim(terms, owner)
        except StoreUnavailable:
            if terms.scope == "key":
                raise
            return None  # what nobody was promised is not worth an error
        match claim:
            case First(dead):
                self._note("first")
                await self._begin(terms, owner, dead)
                return None
            case Conflict():
                self._note("conflict")
                raise IdempotencyKeyReused(
                    "This Idempotency-Key was used for another request.",
                    param="Idempotency-Key",
                )
            case InFlight() if terms.is_fresh:
                return None
            case InFlight(_, is_joinable) if not (is_joinable and terms.is_joinable):
                if terms.scope != "key":
                    return None
                raise self._in_flight()
            case InFlight() | Stored():
                return claim

    def _in_flight(self) -> IdempotencyInFlight:
        self._note("in_flight")
        return IdempotencyInFlight(
            "The request with this Idempotency-Key is still running.",
            retry_after_ms=IN_FLIGHT_RETRY_MS,
            is_retryable=True,
        )

    def _note(self, outcome: ReplayOutcome) -> None:
        assert self._terms is not None  # noqa: S101 - what is noted was claimed
        self._exchange.record.replay = outcome
        self._replays.telemetry.replay(self._terms.scope, outcome)

    # It is run here.

    async def _begin(self, terms: Terms, owner: str, dead: tuple[str, ...]) -> None:
        replays, exchange = self._replays, self._exchange
        recording = self._recording = replays.record(terms, owner)
        settings = replays.settings
        exchange.wire = RecordingWire(
            self._wire,
            recording,
            exchange.request_id,
            write_timeout_s=settings.http_write_timeout_s,
            ping_interval_s=settings.stream_ping_interval_s,
        )
        for lease_id in dead:
            # Nobody has its answer, and who asked for it pays for this one.
            await replays.admission.void(self._principal.workspace, lease_id)

    def _run_on_s(self) -> float:
        """For how much longer it runs although its client has left."""
        assert self._terms is not None  # noqa: S101 - it was begun by them
        assert self._recording is not None  # noqa: S101 - as above
        now_s = asyncio.get_running_loop().time()
        if self._left_s is None:
            self._left_s = now_s
        if self._recording.is_followed:
            return FOLLOWED_LOOK_S
        left_s = self._left_s + self._terms.run_on_s - now_s
        return min(left_s, FOLLOWED_LOOK_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        recording, exchange = self._recording, self._exchange
        if recording is None:
            return
        delivery = getattr(exchange.wire, "delivery", None)
        exchange.wire = self._wire
        self._close(recording, error)
        if delivery is not None:
            try:
                if error is None or isinstance(error, Exception):
                    await self._delivered(delivery)
            finally:
                delivery.cancel()
        if error is None and self._left_s is not None:
            raise ClientGone

    async def _delivered(self, delivery: asyncio.Task[None]) -> None:
        """Until its own client, which may lag behind, has all of it, or is gone."""
        if self._wire.is_gone:
            return

        def cancel() -> None:
            delivery.cancel()

        self._wire.when_gone(cancel)
        try:
            await asyncio.wait([delivery])
        finally:
            self._wire.when_gone(None)

    def _close(self, recording: Recording, error: BaseException | None) -> None:
        self._replays.forget(recording)
        assert self._terms is not None  # noqa: S101 - it was begun by them
        if error is None:
            # Otherwise cut short, and the client was told so within the stream.
            is_kept = recording.is_complete and self._exchange.record.outcome == "ok"
            is_wanted = self._terms.keeps_delivered or self._left_s is not None
            recording.close(None, is_kept=is_kept and is_wanted)
            return
        shown = error if isinstance(error, GatewayError) else None
        if shown is not None and self._is_final(shown):
            head = AnswerHead(
                shown.http_status, (JSON_TYPE,), self._exchange.request_id, False
            )
            recording.whole(head, envelope(shown))
            recording.close(None, is_kept=self._terms.keeps_refusals)
        else:
            # Who leaves, or is stopped, says nothing of what the others asked.
            is_of_all = not isinstance(shown, ShuttingDown)
            recording.close(shown if is_of_all else None, is_kept=False)

    def _is_final(self, error: GatewayError) -> bool:
        # A model that only the upstream can say it does not know is an error of ours.
        return (
            isinstance(error, UpstreamError | ModelNotFound)
            and error.http_status in FINAL_STATUSES
            and not self._exchange.is_started
        )

    # It is, or was, run by somebody else.

    async def _follow(self, reader: Reader, terms: Terms, presence: Presence) -> bool:
        """Whether it was answered; False if its runner is gone and nothing was sent."""
        first = await reader.next()
        if first.head is None or first.state == "gone":
            return self._heard(reader)
        if first.head.is_stream:
            await self._relay(reader, first, terms, presence)
            return True
        body = await collect(reader, first)
        if body is None:
            return self._heard(reader)
        headers = await self._replay_headers(first.head, terms)
        presence.conclude()
        await self._exchange.respond(first.head.status, body, headers)
        return True

    def _heard(self, reader: Reader) -> bool:
        if reader.error is not None:
            # As everybody who waited: to run it again is for a retry to ask.
            raise reader.error.with_traceback(None)
        return False

    async def _replay_headers(
        self, head: AnswerHead, terms: Terms
    ) -> tuple[Header, ...]:
        """The answer's own, what it is, and where the caller's limits stand now."""
        inspected = await self._replays.admission.inspect(self._principal)
        self._exchange.decided(inspected)
        marks = (CACHE_HIT,) if terms.scope == "cache" else (REPLAYED,)
        original = (ORIGINAL_ID, head.request_id.encode("ascii"))
        return (*head.headers, *marks, original)

    async def _relay(
        self, reader: Reader, first: Reading, terms: Terms, presence: Presence
    ) -> None:
        assert first.head is not None  # noqa: S101 - asked by the caller
        exchange, settings = self._exchange, self._replays.settings
        headers = await self._replay_headers(first.head, terms)
        await exchange.start(first.head.status, headers)
        interrupted: GatewayError | None = AnswerInterrupted(
            "Who ran this request is gone; send it again with the same key."
        )
        try:
            if await deliver(
                reader,
                exchange.wire,
                first,
                write_timeout_s=settings.http_write_timeout_s,
                ping_interval_s=settings.stream_ping_interval_s,
            ):
                interrupted = None
        except ReplayUnavailable:
            pass
        if interrupted is not None:
            exchange.note(reader.error or interrupted)
        presence.conclude()
        end_in(exchange.wire, interrupted and (reader.error or interrupted))


def unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "The gateway cannot tell at the moment whether this Idempotency-Key was used;"
        " try again.",
        retry_after_ms=UNAVAILABLE_RETRY_MS,
        is_retryable=True,
    )
