"""
Lines one by one, by the path that every request takes, at the pace the plan leaves.

Whoever waits for an answer comes first: a line is begun only while less than half of
each limit is in use, so that a batch never takes the other half. Of a process' lines of
one workspace the next looks only when the last has taken what it takes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, Self
from weakref import WeakValueDictionary

import msgspec

from gateway.admission import Admission
from gateway.auth import Principal
from gateway.batches.lines import Item
from gateway.batches.results import Outcome, answered, refused
from gateway.completion import Call, CompletionService
from gateway.demands import is_suspended
from gateway.errors import (
    GatewayError,
    Header,
    LimitExceeded,
    StoreUnavailable,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRateLimited,
)
from gateway.ids import new_id
from gateway.record import Record
from gateway.tracing.facts import RequestTrace
from gateway.translation.port import Parse, Stamp
from gateway.translation.usage import TokenUsage
from policies.ledger import LimitState, Usage
from policies.plans import Quota

# Of each limit, what the background leaves to those who wait.
LEFT_SHARE: Final = 0.5
# A third failure of the same line is its answer.
MAX_TRIES: Final = 3
TRY_AGAIN_S: Final = (0.5, 2.0)
# Where nobody says how long a line has to wait.
WAIT_FOR_ROOM_MS: Final = 1_000
WAIT_FOR_UPSTREAM_MS: Final = 5_000


class Waits(msgspec.Struct, frozen=True):
    """A line that the limits, ours or LLMTune's, do not let run for so long."""

    for_ms: int


# Of what became of a line.
Keep = Callable[[Outcome], Awaitable[None]]


class Background:
    """What stands for an exchange where nobody waits."""

    def __init__(self, admitted: Callable[[], None]) -> None:
        self._admitted = admitted
        self.record = Record("batch", 0, "failed")
        self.trace: RequestTrace | None = None
        self.request_id = "req_" + new_id()
        self.waited_s = 0.0

    def decided(self, states: Iterable[LimitState]) -> None:
        self._admitted()

    def add_headers(self, headers: Iterable[Header]) -> None: ...

    def used(self, usage: TokenUsage) -> None:
        self.usage = usage


class LineRunner:
    """Runs single lines; their charges have names, so that a dead one's are voided."""

    def __init__(self, service: CompletionService, admission: Admission) -> None:
        self._service = service
        self._admission = admission
        # By workspace; each lives as long as a line of it is here.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def _has_room(self, principal: Principal) -> bool:
        """Whether the plan's limits leave room for who does not wait."""
        if is_suspended(principal):
            return False
        return not any(map(_is_busy, await self._admission.inspect(principal)))

    async def take_back(self, workspace: str, lease_stem: str) -> None:
        """Take back what was reserved for a line by a replica that died over it."""
        for number in range(MAX_TRIES):
            await self._admission.void(workspace, f"{lease_stem}.{number}")

    async def settle(self, workspace: str, outcome: Outcome) -> None:
        """Charge what a kept answer took; nothing where that was done before."""
        if outcome.lease_id:
            usage = Usage(1, outcome.input_tokens + outcome.output_tokens)
            await self._admission.end_charge(workspace, usage, outcome.lease_id)

    async def run(
        self,
        principal: Principal,
        item: Item,
        parse: Parse,
        lease_stem: str,
        keep: Keep,
    ) -> Waits | None:
        """
        Have a line answered, and what became of it kept; Waits where it was not.

        An answer is kept before its charge is settled: whoever finds the one can see
        to the other. No two runs may have names of the same stem.
        """
        for number in range(MAX_TRIES):
            try:
                lease_id = f"{lease_stem}.{number}"
                return await self._try(principal, item, parse, lease_id, keep)
            except LimitExceeded as error:
                if error.limit_code == "request_exceeds_limit":
                    await keep(refused(item, error))
                    return None
                return Waits(error.retry_after_ms or WAIT_FOR_ROOM_MS)
            except StoreUnavailable as error:
                return Waits(error.retry_after_ms or WAIT_FOR_ROOM_MS)
            except (UpstreamRateLimited, UpstreamOverloaded) as error:
                # It has a day: what LLMTune takes later is no failure.
                return Waits(error.retry_after_ms or WAIT_FOR_UPSTREAM_MS)
            except GatewayError as error:
                if number + 1 == MAX_TRIES or not _may_pass(error):
                    await keep(refused(item, error))
                    return None
                await asyncio.sleep(TRY_AGAIN_S[number])
        raise AssertionError("unreachable")

    async def _try(
        self,
        principal: Principal,
        item: Item,
        parse: Parse,
        lease_id: str,
        keep: Keep,
    ) -> Waits | None:
        lock = self._turns.setdefault(principal.workspace, asyncio.Lock())
        async with _Turn(lock) as turn:
            if not await self._has_room(principal):
                return Waits(WAIT_FOR_ROOM_MS)
            noted = Background(turn.end)

            async def keep_answer(body: bytes) -> None:
                await keep(answered(item, body, noted.usage, lease_id))

            call = Call(
                principal=principal,
                translator=parse(bytes(item.body)),
                stamp=Stamp("chatcmpl-" + new_id(), int(time.time())),
                trace_headers=(),
                exchange=noted,
                lease_id=lease_id,
                waits=True,
                keep=keep_answer,
            )
            await self._service.complete(call)
        return None


class _Turn:
    """A lock that is let go as soon as may be, and at the end at the latest."""

    def __init__(self, lock: asyncio.Lock) -> None:
        self._lock = lock
        self._is_held = False

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._is_held = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """Whoever waits is next; a second time changes nothing."""
        if self._is_held:
            self._is_held = False
            self._lock.release()


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
