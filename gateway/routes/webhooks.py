"""`/webhooks/llmtune`: what LLMTune posts, verified, kept, and worked on afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

from gateway.batches.inbox import Inbox
from gateway.batches.tickets import PARAMETER, PATH, Ticket, TicketOffice
from gateway.errors import InvalidRequest, RequestTooLarge, SignatureRefused
from gateway.exchange import Exchange
from gateway.fine_tuning.urls import TuneTicket, TuneUrls
from gateway.routes.door import Door, Route
from gateway.routes.kept import unavailable_as_503
from gateway.settings import Settings
from gateway.telemetry.metrics import Telemetry
from gateway.webhooks.incoming import (
    Bounds,
    Event,
    IncomingRefused,
    check_clock,
    parse,
    verify,
)

logger = logging.getLogger(__name__)

TAKEN: Final = b'{"received":true}'
# Of a type that is logged: LLMTune's own are short.
MOST_TYPE_CHARS: Final = 64


class WebhookRoutes:
    """Answers within milliseconds; LLMTune gives up after five seconds."""

    def __init__(
        self,
        door: Door,
        inbox: Inbox,
        tickets: TicketOffice,
        urls: TuneUrls,
        *,
        settings: Settings,
        telemetry: Telemetry,
        nudge: Callable[[], None],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._door = door
        self._inbox = inbox
        self._tickets = tickets
        self._urls = urls
        secret = settings.webhook_secret
        self._secrets = () if secret is None else secret.split()
        self._bounds = Bounds(max_bytes=settings.webhook_max_body_bytes)
        self._telemetry = telemetry
        self._nudge = nudge
        self._now_s = now_s

    def routes(self) -> list[Route]:
        return [self._door.route(PATH, POST=self.take)]

    async def take(self, exchange: Exchange) -> None:
        raw = await self._door.read(exchange, self._bounds.max_bytes)
        ticket = self._ticket_of(exchange)
        try:
            event = self._verified(exchange, raw, ticket)
        except IncomingRefused as refused:
            self._telemetry.webhook_came(refused.reason)
            raise _told(refused, self._bounds) from None
        with unavailable_as_503():
            taken = await self._inbox.take(event, ticket)
        self._telemetry.webhook_came(taken)
        if taken == "kept":
            facts = {"event": event.id, "type": event.type[:MOST_TYPE_CHARS]}
            logger.info("LLMTune told of something", extra={"facts": facts})
        self._nudge()
        await exchange.respond(200, TAKEN)

    def _ticket_of(self, exchange: Exchange) -> Ticket | TuneTicket | None:
        query = exchange.wire.head.query.decode("latin-1")
        of_tune = self._urls.ticket_in(query)
        if of_tune is not None:
            return of_tune
        try:
            texts = parse_qs(query, max_num_fields=8).get(PARAMETER, [])
        except ValueError:
            return None
        return self._tickets.read(texts[0]) if len(texts) == 1 else None

    def _verified(
        self, exchange: Exchange, raw: bytes, ticket: Ticket | TuneTicket | None
    ) -> Event:
        headers, now_s = exchange.wire.head.headers, self._now_s()
        try:
            return verify(headers, raw, self._secrets, now_s, self._bounds)
        except IncomingRefused as refused:
            if refused.reason != "unsigned" or ticket is None:
                raise
        # The oldest generation signs nothing; the URL that it was given is signed.
        event = parse(raw, self._bounds)
        check_clock(event.sent_at_s, now_s, self._bounds)
        return event


def _told(refused: IncomingRefused, bounds: Bounds) -> Exception:
    match refused.reason:
        case "too_large":
            return RequestTooLarge(f"The body has more than {bounds.max_bytes} bytes.")
        case "unsigned" | "forged" | "no_secret":
            return SignatureRefused(f"The webhook is not taken: {refused}.")
    return InvalidRequest(f"The webhook is not taken: {refused}.")
