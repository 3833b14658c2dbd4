"""
Lines one by one, by the path that every request takes, at the pace the plan leaves.

Whoever waits for an answer comes first: a line is begun only while less than half of
each limit is in use, so that a batch never takes the other half.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Final

from gateway.admission import Admission
from gateway.auth import Principal
from gateway.batches.lines import Item
from gateway.batches.results import Outcome, answered, refused
from gateway.completion import Call, CompletionService
from gateway.errors import (
    GatewayError,
    Header,
    LimitExceeded,
    StoreUnavailable,
    UpstreamError,
)
from gateway.ids import new_id
from gateway.record import Record
from gateway.tracing.facts import RequestTrace
from gateway.translation.port import Parse, Stamp
from gateway.translation.usage import TokenUsage
from policies.ledger import LimitState
from policies.plans import Quota

# Of each limit, what the background leaves to those who wait.
LEFT_SHARE: Final = 0.5
# A third failure of the same line is its answer.
MAX_TRIES: Final = 3
TRY_AGAIN_S: Final = (0.5, 2.0)


class Background:
    """What stands for an exchange where nobody waits."""

    def __init__(self) -> None:
        self.record = Record("batch", 0, "failed")
        self.trace: RequestTrace | None = None
        self.request_id = "req_" + new_id()
        self.waited_s = 0.0

    def decided(self, states: Iterable[LimitState]) -> None: ...

    def add_headers(self, headers: Iterable[Header]) -> None: ...

    def used(self, usage: TokenUsage) -> None:
        self.usage = usage


class LineRunner:
    """Runs single lines; their charges have names, so that a dead one's are voided."""

    def __init__(self, service: CompletionService, admission: Admission) -> None:
        self._service = service
        self._admission = admission

    async def has_room(self, principal: Principal) -> bool:
        """Whether the plan's limits leave room for who does not wait."""
        return not any(map(_is_busy, await self._admission.inspect(principal)))

    async def take_back(self, principal: Principal, lease_stem: str) -> bool:
        """
        Take back what was reserved for a line by a replica that died over it.

        True if it was charged in full just before: that is not taken back.
        """
        names = [f"{lease_stem}.{number}" for number in range(MAX_TRIES)]
        kept = [await self._admission.take_back(principal, name) for name in names]
        return not all(kept)

    async def run(
        self, principal: Principal, item: Item, parse: Parse, lease_stem: str
    ) -> Outcome | None:
        """What became of a line; None where it has to wait for its limits."""
        translator = parse(bytes(item.body))
        for number in range(MAX_TRIES):
            noted = Background()
            call = Call(
                principal=principal,
                translator=translator,
                stamp=Stamp("chatcmpl-" + new_id(), int(time.time())),
                trace_headers=(),
                exchange=noted,
                lease_id=f"{lease_stem}.{number}",
            )
            try:
                body = await self._service.complete(call)
            except LimitExceeded as error:
                is_hopeless = error.limit_code == "request_exceeds_limit"
                return refused(item, error) if is_hopeless else None
            except StoreUnavailable:
                return None
            except GatewayError as error:
                if number + 1 == MAX_TRIES or not _may_pass(error):
                    return refused(item, error)
                await asyncio.sleep(TRY_AGAIN_S[number])
                continue
            assert isinstance(body, bytes)  # noqa: S101 - no line streams
            return answered(item, body, noted.usage)
        raise AssertionError("unreachable")


def _is_busy(state: LimitState) -> bool:
    # A budget is for whoever spends it first.
    if isinstance(state.limit, Quota) or state.limit.shadow:
        return False
    return state.used > 0 and state.used >= state.capacity * LEFT_SHARE


def _may_pass(error: GatewayError) -> bool:
    """Whether the same request may be answered a little later."""
    return isinstance(error, UpstreamError) and (
        error.http_status == 429 or error.http_status >= 500
    )
