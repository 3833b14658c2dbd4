"""The answer that somebody else's request was given, or is being given, once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gateway.auth import Principal
from gateway.errors import (
    AnswerInterrupted,
    GatewayError,
    Header,
    UpstreamRefused,
)
from gateway.exchange import Exchange
from gateway.presence import Presence
from gateway.replay.asking import Terms
from gateway.replay.delivery import Reader, collect, deliver, end_in
from policies.replay.port import AnswerHead, Reading, ReplayUnavailable

if TYPE_CHECKING:
    from gateway.replay.replays import Replays

REPLAYED: Final[Header] = (b"idempotent-replayed", b"true")
ORIGINAL_ID: Final = b"idempotent-original-request-id"
CACHE_HIT: Final[Header] = (b"x-cache", b"hit")


class Follow:
    """One request that is answered as another is."""

    def __init__(
        self,
        replays: Replays,
        exchange: Exchange,
        principal: Principal,
        terms: Terms,
        presence: Presence,
    ) -> None:
        self._replays = replays
        self._exchange = exchange
        self._principal = principal
        self._terms = terms
        self._presence = presence

    async def answered(self, reader: Reader) -> bool:
        """
        Whether it was answered; False if its runner is gone and nothing was sent.

        Raises what was answered instead, and ReplayUnavailable.
        """
        first = await reader.next()
        if first.head is None or first.state == "gone":
            return self._heard(reader)
        if first.head.is_stream:
            await self._relay(reader, first, first.head)
            return True
        body = await collect(reader, first)
        if body is None:
            return self._heard(reader)
        headers = await self._headers(first.head)
        self._presence.conclude()
        await self._exchange.respond(first.head.status, body, headers)
        if first.head.status >= 400:
            # All that is kept of these is what the upstream has refused.
            self._exchange.record.outcome = UpstreamRefused.outcome
        return True

    def _heard(self, reader: Reader) -> bool:
        error = reader.error_for(self._principal.key_id)
        if error is not None:
            # As everybody who waited: to run it again is for a retry to ask.
            raise error.with_traceback(None)
        return False

    async def _headers(self, head: AnswerHead) -> tuple[Header, ...]:
        """The answer's own, what it is, and where the caller's limits stand now."""
        inspected = await self._replays.admission.inspect(self._principal)
        self._exchange.decided(inspected)
        mark = CACHE_HIT if self._terms.scope == "cache" else REPLAYED
        return (*head.headers, mark, (ORIGINAL_ID, head.request_id.encode("ascii")))

    async def _relay(self, reader: Reader, first: Reading, head: AnswerHead) -> None:
        exchange, settings = self._exchange, self._replays.settings
        await exchange.start(head.status, await self._headers(head))
        try:
            is_whole = await deliver(
                reader,
                exchange.wire,
                first,
                write_timeout_s=settings.http_write_timeout_s,
                ping_interval_s=settings.stream_ping_interval_s,
            )
        except ReplayUnavailable:
            is_whole = False
        self._presence.conclude()
        if is_whole:
            # It may have ended with an error, which is among what was sent.
            exchange.record.outcome = reader.outcome or "ok"
            end_in(exchange.wire, None)
            return
        error: GatewayError = reader.error_for(self._principal.key_id) or (
            AnswerInterrupted(
                "Who ran this request is gone; send it again with the same key."
            )
        )
        exchange.note(error)
        end_in(exchange.wire, error)
