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
    Header,
    IdempotencyInFlight,
    IdempotencyKeyReused,
    StoreUnavailable,
)
from gateway.exchange import Exchange
from gateway.ids import new_id
from gateway.presence import Presence
from gateway.replay.asking import Terms, terms_of
from gateway.replay.fingerprint import asked_of
from gateway.replay.following import Follow
from gateway.replay.leading import Lead
from gateway.translation.port import Parse, Translator
from policies.replay.port import (
    Conflict,
    First,
    InFlight,
    ReplayOutcome,
    ReplayUnavailable,
    Stored,
)

if TYPE_CHECKING:
    from gateway.replay.replays import Replays

CACHE_MISS: Final[Header] = (b"x-cache", b"miss")

# An answer takes seconds; nobody knows how many.
IN_FLIGHT_RETRY_MS: Final = 1000
UNAVAILABLE_RETRY_MS: Final = 1000


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
        self._lead: Lead | None = None

    def parse(self, raw: bytes) -> Translator:
        """The body as the request it is; its digest is taken on the way."""
        translator = self._parse(raw)
        asked = asked_of(self._exchange.record.route, translator.model, raw)
        self._terms = terms_of(self._exchange.headers, self._principal, asked)
        return translator

    @property
    def lease_id(self) -> str | None:
        """What its lease is to be called, so that its charge is found if we die."""
        return None if self._lead is None else self._lead.lease_id

    async def answered(self, translator: Translator, presence: Presence) -> bool:
        """Whether it was answered as another was; else it is to be run from here."""
        terms = self._terms
        if terms is None:
            return False
        # First, so that an unknown model looks the same whatever else is wrong.
        self._principal.require(translator.model)
        if await self._followed(terms, presence):
            return True
        if terms.scope == "cache":
            self._exchange.add_headers((CACHE_MISS,))
        if self._lead is None:
            self._note(terms, "alone")
        else:
            presence.outlive_client(self._lead.run_on_s)
        return False

    async def _followed(self, terms: Terms, presence: Presence) -> bool:
        loop = asyncio.get_running_loop()
        ends_at_s = loop.time() + self._replays.settings.upstream_total_timeout_s
        follow = Follow(self._replays, self._exchange, self._principal, terms, presence)
        while (claim := await self._claim(terms)) is not None:
            try:
                with self._replays.reading(terms.key, claim.recording) as reader:
                    if reader is None or loop.time() > ends_at_s:
                        raise self._in_flight(terms)
                    if await follow.answered(reader):
                        is_stored = isinstance(claim, Stored)
                        self._note(terms, "stored" if is_stored else "joined")
                        return True
            except ReplayUnavailable as error:
                if terms.scope == "key":
                    raise unavailable() from error
                return False
        return False

    async def _claim(self, terms: Terms) -> Stored | InFlight | None:
        """Whose answer it is to have; None if it is to be run."""
        owner = new_id()
        try:
            claim = await self._replays.claim(terms, owner)
        except ReplayUnavailable as error:
            if terms.scope == "key":
                raise unavailable() from error
            return None  # what nobody was promised is not worth an error
        match claim:
            case First(dead):
                self._note(terms, "first")
                await self._begin(terms, owner, dead)
                return None
            case Conflict():
                self._note(terms, "conflict")
                raise IdempotencyKeyReused(
                    "This Idempotency-Key was used for another request.",
                    param="Idempotency-Key",
                )
            case InFlight() if terms.is_fresh:
                return None
            case InFlight(_, is_joinable) if not (is_joinable and terms.is_joinable):
                if terms.scope != "key":
                    return None
                raise self._in_flight(terms)
            case InFlight() | Stored():
                return claim

    async def _begin(self, terms: Terms, owner: str, dead: tuple[str, ...]) -> None:
        replays, principal = self._replays, self._principal
        recording = replays.record(terms, owner, principal.key_id)
        self._lead = Lead(replays, self._exchange, terms, recording)
        if dead:
            # Nobody has their answer, and who asked for it pays for this one. In a task
            # of its own: nobody else will know of them once this claim is given back.
            done = asyncio.get_running_loop().create_future()
            replays.run_beside(self._void(principal.workspace, dead, done))
            await asyncio.shield(done)

    async def _void(
        self, workspace: str, dead: tuple[str, ...], done: asyncio.Future[None]
    ) -> None:
        try:
            for lease_id in dead:
                await self._replays.admission.void(workspace, lease_id)
        finally:
            if not done.done():
                done.set_result(None)

    def _note(self, terms: Terms, outcome: ReplayOutcome) -> None:
        self._exchange.record.replay = outcome
        self._replays.telemetry.replay(terms.scope, outcome)

    def _in_flight(self, terms: Terms) -> IdempotencyInFlight:
        self._note(terms, "in_flight")
        return IdempotencyInFlight(
            "The request with this Idempotency-Key is still running.",
            retry_after_ms=IN_FLIGHT_RETRY_MS,
            is_retryable=True,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lead is not None:
            await self._lead.end(error)


def unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "The gateway cannot tell at the moment whether this Idempotency-Key was used;"
        " try again.",
        retry_after_ms=UNAVAILABLE_RETRY_MS,
        is_retryable=True,
    )
