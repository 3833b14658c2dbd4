"""
Decides for the mesh: the same plans, the same ledger, the same words as for the API.

What a call asks is admitted as a whole or not at all, and settled at once: the protocol
has no end of a request, so it can hold no place, and `concurrency` is not looked at
unless it is 0.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeAlias, get_args

from google.protobuf.message import DecodeError

from gateway.admission import Admission
from gateway.auth import Authenticator, Principal
from gateway.errors import (
    GatewayError,
    Header,
    InvalidApiKey,
    StoreUnavailable,
    envelope,
    retry_headers,
)
from gateway.limit_headers import degraded_headers, limit_headers, rejection_error
from gateway.rate_limit import messages as m
from gateway.rate_limit.asking import Asked, Asking, Caller, InvalidAsking, read
from policies.ledger import NOTHING, Decision, LimitState, Rejected
from policies.plans import Concurrency, Unit

logger = logging.getLogger(__name__)

Outcome: TypeAlias = Literal[
    "ok",
    "over_limit",
    "reported",  # nothing was asked, only told
    "unmatched",  # no descriptor names anybody
    "unknown_key",
    "invalid",  # the mesh's configuration makes no sense
    "unavailable",  # the store is away, and the plan is closed
    "proxy_gone",  # nobody waited for the decision
    "failed",  # a fault of ours
]

_MOST_UINT32: Final = 2**32 - 1
# A mesh that asks wrongly does so with each of its requests.
_TOLD_EVERY_MS: Final = 60_000
# Envoy says this of every refusal itself.
_ENVOYS_OWN: Final = b"x-envoy-ratelimited"


class RateLimitService:
    """Answers `ShouldRateLimit`."""

    def __init__(
        self,
        domain: str,
        *,
        authenticator: Authenticator,
        admission: Admission,
        now_ms: Callable[[], int],
        count: Callable[[Outcome, int], None],
    ) -> None:
        self._domain = domain
        self._authenticator = authenticator
        self._admission = admission
        self._now_ms = now_ms
        self._count = count
        self._told_ms = -_TOLD_EVERY_MS
        # There before its first increase, which a rate does not see of a new series.
        for outcome in get_args(Outcome):
            count(outcome, 0)

    async def decide(self, message: bytes) -> Any:
        """
        The answer to a request.

        InvalidAsking for one that makes no sense, StoreUnavailable where nobody can
        decide: the mesh's own failure mode says what becomes of its request then.
        """
        outcome: Outcome = "failed"
        try:
            outcome, response = await self._decide(message)
        except InvalidAsking as problem:
            outcome = "invalid"
            self._tell(problem)
            raise
        except StoreUnavailable:
            outcome = "unavailable"
            raise
        except asyncio.CancelledError:
            outcome = "proxy_gone"
            raise
        finally:
            self._count(outcome, 1)
        return response

    def _tell(self, problem: InvalidAsking) -> None:
        now_ms = self._now_ms()
        if now_ms >= self._told_ms + _TOLD_EVERY_MS:
            self._told_ms = now_ms
            logger.warning("rate limits cannot be told: %s", problem)

    async def _decide(self, message: bytes) -> tuple[Outcome, Any]:
        try:
            request = m.Request.FromString(message)
        except DecodeError:
            raise InvalidAsking("the message cannot be read") from None
        if request.domain != self._domain:
            raise InvalidAsking(
                f"the domain is {request.domain[:64]!r} and not {self._domain!r}"
            )
        asking = read(request)
        if asking is None:
            return "unmatched", _response(m.OK, (m.OK,) * len(request.descriptors))
        try:
            principal = await self._principal(asking.caller)
        except InvalidApiKey as error:
            # An error would let it pass, where the mesh is told to pass errors.
            codes = (m.OVER_LIMIT,) * len(asking.asked)
            return "unknown_key", _refusal(error, codes)
        if asking.report != NOTHING:
            await self._admission.charge(principal, asking.report)
        if all(each is None or each.is_report for each in asking.asked):
            return "reported", _response(m.OK, (m.OK,) * len(asking.asked))
        return self._answer(asking, principal, await self._decision(asking, principal))

    async def _decision(self, asking: Asking, principal: Principal) -> Decision:
        """All that is asked of one caller, as one yes or no."""
        look, demand = asking.look, asking.demand
        if look is None:
            return await self._admission.spend(principal, demand)
        seen = await self._admission.look(principal, look)
        if isinstance(seen, Rejected) or demand == NOTHING:
            return seen
        # What is spent is decided anew: only what is looked at may change in between.
        return await self._admission.spend(principal, demand)

    async def _principal(self, caller: Caller) -> Principal:
        if caller.api_key:
            authorization = caller.api_key.encode("utf-8", "replace")
            known = self._authenticator.recognise(authorization)
            if known is None:
                known = await self._authenticator.authenticate(authorization)
            if known.is_own_key:
                # The API asks LLMTune about it; of a route of others nobody is asked,
                # and each key that somebody made up would have a plan of its own.
                raise InvalidApiKey("This API key is not known here.")
            return known
        if not caller.plan:
            raise InvalidApiKey("You didn't provide an API key.")
        vouched = self._authenticator.vouched(caller.workspace, caller.plan)
        if vouched is None:
            # Neither is repeated: a route may take them from its client's headers.
            raise InvalidAsking("there is no such plan, or no workspace of that name")
        return vouched

    def _answer(
        self, asking: Asking, principal: Principal, decision: Decision
    ) -> tuple[Outcome, Any]:
        if not isinstance(decision, Rejected):
            headers = limit_headers(decision.states)
            if not decision.is_exact:
                headers += degraded_headers(principal.plan)
            response = _response(m.OK, (m.OK,) * len(asking.asked), headers)
            _describe(response, asking.asked, decision.states)
            return "ok", response
        limit = decision.binding.limit
        # No place at all, of a suspended workspace, binds whatever is asked.
        bound = get_args(Unit) if isinstance(limit, Concurrency) else (limit.of,)
        codes = [
            m.OVER_LIMIT if each and not each.is_report and each.of in bound else m.OK
            for each in asking.asked
        ]
        error = rejection_error(decision, principal.plan, now_ms=self._now_ms())
        response = _refusal(error, codes)
        _describe(response, asking.asked, decision.states)
        return "over_limit", response


def _refusal(error: GatewayError, codes: Iterable[int]) -> Any:
    """In the words that the API would have refused it."""
    headers = [
        (b"content-type", b"application/json"),
        *error.headers,
        *(each for each in retry_headers(error) if each[0] != _ENVOYS_OWN),
    ]
    response = _response(m.OVER_LIMIT, codes, headers)
    response.raw_body = envelope(error)
    return response


def _response(code: int, codes: Iterable[int], headers: Iterable[Header] = ()) -> Any:
    response = m.Response(overall_code=code)
    for each in codes:
        response.statuses.add(code=each)
    for name, value in headers:
        response.response_headers_to_add.add(key=name.decode(), value=value.decode())
    return response


def _describe(
    response: Any, asked: Iterable[Asked | None], states: tuple[LimitState, ...]
) -> None:
    """Where the tightest limit of each descriptor's unit stands."""
    for status, each in zip(response.statuses, asked, strict=True):
        enforced = [
            (state.remaining, position)
            for position, state in enumerate(states)
            if each is not None
            and not isinstance(state.limit, Concurrency)
            and state.limit.of == each.of
            and not state.limit.shadow
        ]
        if enforced:
            _describe_one(status, states[min(enforced)[1]])


def _describe_one(status: Any, state: LimitState) -> None:
    limit = state.limit
    assert not isinstance(limit, Concurrency)  # noqa: S101 - as chosen above
    status.current_limit.requests_per_unit = min(limit.limit, _MOST_UINT32)
    status.current_limit.unit = m.UNITS[limit.per]
    status.current_limit.name = state.name
    status.limit_remaining = min(state.remaining, _MOST_UINT32)
    status.duration_until_reset.FromMilliseconds(state.reset_after_ms)
