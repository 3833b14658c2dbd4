"""
The path: one completion, from an authenticated call to settled usage.

What each step does is in the module it names; what happens in which order is here.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Protocol

import msgspec

from gateway.admission import Admission
from gateway.auth import Authenticator, Principal
from gateway.errors import Header, ModelNotFound, UpstreamRefused
from gateway.lease import Lease
from gateway.limit_headers import degraded_headers
from gateway.record import Record
from gateway.replay.header import upstream_key
from gateway.streaming import MeteredStream
from gateway.tracing.facts import RequestTrace
from gateway.translation.port import Route, Stamp, Translator, WholeAnswer
from gateway.translation.usage import TokenUsage
from gateway.upstream.client import UpstreamAnswer, UpstreamCall, UpstreamClient
from policies.ledger import LimitState


class Noted(Protocol):
    """Where a call is noted: a request's exchange, or what stands for one."""

    record: Record
    trace: RequestTrace | None
    request_id: str
    # Of its time, what was spent waiting for others.
    waited_s: float

    def decided(self, states: Iterable[LimitState]) -> None: ...

    def add_headers(self, headers: Iterable[Header]) -> None: ...

    def used(self, usage: TokenUsage) -> None: ...


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One authenticated, parsed request."""

    principal: Principal
    translator: Translator
    stamp: Stamp
    trace_headers: tuple[Header, ...]
    # Where decisions and usage are noted for headers, log and metrics.
    exchange: Noted
    # What its lease is called, where somebody else may have to find it.
    lease_id: str | None = None
    # Whether the caller waits for its limits: their refusal is then no rejection.
    waits: bool = False
    # Has the answer before its lease is settled, and is waited for.
    keep: Callable[[bytes], Awaitable[None]] | None = None
    # The caller's `Idempotency-Key`, where the upstream is to see it as well.
    idempotency_key: bytes | None = None


class CompletionService:
    """
    Completes calls of every translation.

    The steps run in this order because each is cheaper to undo than the next: a request
    that no route can carry costs nothing, an admission can be refunded, an upstream
    call is spent for good.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        authenticator: Authenticator,
        upstream: UpstreamClient,
        max_event_bytes: int,
        is_anothers: Callable[[str, str], bool] = lambda _workspace, _model: False,
    ) -> None:
        """`is_anothers` says whether a model was tuned for another workspace."""
        self._admission = admission
        self._authenticator = authenticator
        self._upstream = upstream
        self._is_anothers = is_anothers
        self._max_event_bytes = max_event_bytes

    async def complete(self, call: Call) -> bytes | MeteredStream:
        """The whole answer, or the open stream that whoever holds it must close."""
        principal, translator = call.principal, call.translator
        call.exchange.record.upstream_route = self._route_of(call)

        trace = call.exchange.trace
        if trace is not None:
            trace.admitting()
        lease = await self._admission.admit(
            principal,
            translator.model,
            translator.demand,
            call.lease_id,
            waits=call.waits,
        )
        if trace is not None:
            trace.admitted(lease)
        with lease:
            call.exchange.decided(lease.states)
            if not lease.is_exact:
                call.exchange.add_headers(degraded_headers(lease.plan))

            # From here the prompt is spent, whatever becomes of the answer; of one that
            # has to be kept, nothing is until it is.
            prompt = TokenUsage(translator.demand.input_tokens, 0, is_reported=False)
            if call.keep is None:
                lease.settle(prompt)
            call.exchange.used(prompt)

            upstream_call, exchange = self._upstream_call(call), call.exchange
            asked_s = time.perf_counter()
            try:
                answer = await self._upstream.open(upstream_call)
            except UpstreamRefused as error:
                # Only here: a key is refused before an answer, never inside.
                self._authenticator.hear_refusal(principal, error)
                raise
            async with answer:
                if translator.is_stream:
                    # The body outlives this function. From here the stream owns the
                    # connection and the lease, and gives both back when it ends, fails
                    # or is abandoned.
                    exchange.waited_s += time.perf_counter() - asked_s
                    return self._stream(call, answer, lease)
                raw = await answer.read()
                exchange.waited_s += time.perf_counter() - asked_s
                whole = translator.from_upstream(raw, call.stamp)

            if trace is not None:
                trace.answered(whole.body)
            usage = self._usage_of(call, lease, whole)
            call.exchange.used(usage)
            if call.keep is not None:
                await call.keep(whole.body)
            lease.settle(usage)
            return whole.body

    def _usage_of(self, call: Call, lease: Lease, whole: WholeAnswer) -> TokenUsage:
        if whole.is_as_reserved:
            return lease.as_reserved(whole.usage)
        translator, usage = call.translator, whole.usage
        self._admission.learn(
            call.principal, translator.model, translator.demand, usage
        )
        return usage

    def _route_of(self, call: Call) -> Route:
        """The upstream's route that carries it; ModelNotFound."""
        principal, model = call.principal, call.translator.model
        # First, so that an unknown model looks the same whatever else is wrong.
        principal.require(model)
        if self._is_anothers(principal.workspace, model):
            raise ModelNotFound(model)
        return call.translator.find_route()

    def _stream(
        self, call: Call, answer: UpstreamAnswer, lease: Lease
    ) -> MeteredStream:
        translator, trace = call.translator, call.exchange.trace
        stream = translator.stream(call.stamp)
        return MeteredStream(
            answer,
            stream if trace is None else trace.watch(stream),
            lease,
            learn=partial(
                self._admission.learn,
                call.principal,
                translator.model,
                translator.demand,
            ),
            max_event_bytes=self._max_event_bytes,
        )

    def _upstream_call(self, call: Call) -> UpstreamCall:
        credentials = self._authenticator.credentials(call.principal)
        key = call.idempotency_key
        return UpstreamCall(
            # Only now: who is refused does not pay for a body that nobody sends.
            request=call.translator.to_upstream(),
            credentials=credentials,
            model=call.translator.model,
            request_id=call.exchange.request_id,
            trace_headers=call.trace_headers,
            trace=call.exchange.trace,
            idempotency_key=key
            and upstream_key(
                key,
                call.principal.workspace,
                is_callers_key=credentials.is_callers_key,
            ),
        )
