"""
`/v1/limits`: where a key's limits stand, and what they would make of a request.

Neither route counts against any limit, holds a lease or asks the upstream.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from gateway.admission import Admission, Preview
from gateway.auth import Principal
from gateway.exchange import Exchange
from gateway.limit_headers import degraded_headers
from gateway.limit_report import report_limits, report_preview
from gateway.presence import Attendance, Presence
from gateway.routes.door import Door, Route
from gateway.settings import Settings
from gateway.translation.chat import ChatTranslator
from gateway.translation.port import Translator
from policies.ledger import Decision

_encode: Final = msgspec.json.Encoder().encode


class LimitRoutes:
    """Tells a caller where it stands."""

    def __init__(
        self,
        settings: Settings,
        *,
        door: Door,
        admission: Admission,
        attendance: Attendance,
        now_ms: Callable[[], int],
    ) -> None:
        self._door = door
        self._admission = admission
        self._attendance = attendance
        self._now_ms = now_ms
        # As the completions are parsed: what passes here must pass there.
        self._parse = partial(
            ChatTranslator,
            dialect=settings.upstream_dialect,
            prompt_form=settings.upstream_prompt_form,
        )

    def routes(self) -> list[Route]:
        return [
            self._door.route("/v1/limits", "/limits", GET=self.report),
            self._door.route(
                "/v1/limits/preview", "/limits/preview", POST=self.preview
            ),
        ]

    async def report(self, exchange: Exchange) -> None:
        """Every limit of the caller's plan and key, as it stands."""
        principal = await self._door.authenticate(exchange)
        with Presence(exchange.wire, self._attendance) as presence:
            presence.listen()
            decision = await self._admission.survey(principal)
        report = report_limits(
            principal.workspace, principal.plan, decision, now_ms=self._now_ms()
        )
        await self._respond(exchange, principal, decision, report)

    async def preview(self, exchange: Exchange) -> None:
        """What would become of this chat completion, were it sent now."""
        principal = await self._door.authenticate(exchange)
        with Presence(exchange.wire, self._attendance) as presence:
            translator = await self._door.parse(exchange, principal, self._parse)
            presence.listen()
            preview = await self._try_out(principal, translator)
        report = report_preview(
            principal.plan, preview.reserve, preview.decision, now_ms=self._now_ms()
        )
        await self._respond(exchange, principal, preview.decision, report)

    async def _try_out(self, principal: Principal, translator: Translator) -> Preview:
        # In the order of a completion, so that the first error is the same.
        principal.require(translator.model)
        translator.find_route()
        return await self._admission.preview(
            principal, translator.model, translator.demand
        )

    async def _respond(
        self,
        exchange: Exchange,
        principal: Principal,
        decision: Decision,
        report: msgspec.Struct,
    ) -> None:
        exchange.decided(decision.states)
        if not decision.is_exact:
            exchange.add_headers(degraded_headers(principal.plan))
        await exchange.respond(200, _encode(report))
