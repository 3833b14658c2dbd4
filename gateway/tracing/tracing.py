"""
Begins and ends a request's trace, and gives the exporters up at the end.

A request that the sampler drops has an object with two ids and no span: nothing of the
SDK is made for it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, SamplingResult
from opentelemetry.trace import SpanKind

from gateway.errors import Header
from gateway.tracing.facts import RequestTrace
from gateway.tracing.propagation import NOWHERE, Propagation, parent_of
from gateway.tracing.sampling import Decided, HandedIds

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.tracing.meters import Meters
    from gateway.tracing.spans import SpanWriter

logger = logging.getLogger(__name__)

# Asked every few seconds by probes and scrapers, and of no interest to anybody.
UNTRACED: Final = frozenset({"/livez", "/readyz", "/metrics", "/openapi.json"})

# What a collector that does not answer may add to a shutdown: what it missed is lost,
# and twice as much would still not save it.
SHUTDOWN_S: Final = 3.0

_SAMPLED: Final = 1
# W3C, level 2: the trace id is random, for samplers down the way.
_RANDOM: Final = 2

# What ends an exporter or a provider; blocks.
Shutdown = Callable[[], Any]


class Tracing:
    """The gateway's traces, and its metrics over OTLP."""

    def __init__(
        self,
        *,
        propagation: Propagation,
        sampler: Decided,
        ids: HandedIds,
        writer: SpanWriter | None,
        meters: Meters | None,
        keeps_text: bool,
        shutdowns: list[Shutdown],
    ) -> None:
        """`writer` is None where only metrics are exported."""
        self._propagation = propagation
        self._head = sampler.head
        self._is_random = ids.is_trace_id_random()
        self._source = ids.source
        self._writer = writer
        self._meters = meters
        self._keeps_text = keeps_text
        self._shutdowns = shutdowns

    def begin(self, exchange: Exchange) -> RequestTrace | None:
        """The trace of a request that has just arrived."""
        if exchange.wire.head.path in UNTRACED:
            return None
        if self._writer is None:
            return RequestTrace(
                0, 0, 0, carry=_as_it_came(exchange), new_span_id=_no_id
            )
        if not self._propagation.is_carried_by(exchange.headers):
            # Most requests, where nothing in front of the gateway traces.
            return self._rooted(exchange, NOWHERE)
        context = self._propagation.extract(exchange)
        parent = parent_of(context)
        if parent is None:
            return self._rooted(exchange, context)
        result = self._sample(context, parent.trace_id)
        random = parent.trace_flags & _RANDOM
        trace = self._trace(parent.trace_id, result, random, context)
        trace.is_foreign = True
        self._note(exchange, trace)
        return trace

    def _rooted(self, exchange: Exchange, context: Context) -> RequestTrace:
        trace_id = self._source.generate_trace_id()
        result = self._sample(context, trace_id)
        # Without the flag of randomness while it is dropped: flags are 00 or 03 then,
        # and nobody's parser takes the first for anything but a no.
        is_sampled = result.decision is Decision.RECORD_AND_SAMPLE
        random = _RANDOM if self._is_random and is_sampled else 0
        trace = self._trace(trace_id, result, random, context)
        if trace.is_sampled:
            self._note(exchange, trace)
        return trace

    def _sample(self, context: Context, trace_id: int) -> SamplingResult:
        return self._head.should_sample(context, trace_id, "HTTP", SpanKind.SERVER)

    def _trace(
        self, trace_id: int, result: SamplingResult, random: int, context: Context
    ) -> RequestTrace:
        is_sampled = result.decision is Decision.RECORD_AND_SAMPLE
        flags = random | _SAMPLED if is_sampled else random
        new_id = self._source.generate_span_id
        trace = RequestTrace(
            trace_id,
            new_id(),
            flags,
            carry=self._propagation.carry,
            new_span_id=new_id,
            keeps_text=self._keeps_text,
        )
        trace.context, trace.sampling = context, result
        if context or result.trace_state:
            trace.passed = self._propagation.passed(result.trace_state, context)
        return trace

    def _note(self, exchange: Exchange, trace: RequestTrace) -> None:
        record = exchange.record
        record.trace_id, record.span_id = trace.hex_id, trace.hex_span_id

    def end(self, exchange: Exchange, trace: RequestTrace) -> None:
        """Its answer is with the client, or given up; nothing is raised here."""
        ended_ns = time.time_ns()
        try:
            if self._writer is not None and trace.is_sampled:
                self._writer.write(exchange, trace, ended_ns)
            if self._meters is not None:
                self._meters.record(exchange, trace, ended_ns)
        except Exception:
            # A plugin of the SDK's may be at fault; the request is not.
            logger.exception("writing a trace failed")

    async def aclose(self) -> None:
        """Send what is left, for a few seconds at the most."""
        ends = [_in_thread(shutdown) for shutdown in self._shutdowns]
        _, late = await asyncio.wait(ends, timeout=SHUTDOWN_S)
        if late:
            logger.warning("the collector did not take the last spans or metrics")


def _in_thread(shutdown: Shutdown) -> asyncio.Future[None]:
    """Its end; in a daemon thread, which an interpreter that ends does not wait for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        try:
            shutdown()
        except Exception:
            logger.exception("an exporter did not end well")
        # The loop may have ended before an exporter that was given up.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(done.set_result, None)

    threading.Thread(target=run, daemon=True, name="tracing-end").start()
    return done


def _no_id() -> int:
    return 0


def _as_it_came(
    exchange: Exchange,
) -> Callable[[RequestTrace, int], tuple[Header, ...]]:
    # As the gateway does where nothing is exported.
    headers = exchange.headers
    names = (b"traceparent", b"tracestate", b"baggage")
    found = tuple((name, headers[name]) for name in names if name in headers)
    return lambda trace, span_id: found
