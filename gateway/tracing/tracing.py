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
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import SamplingResult

from gateway.errors import Header
from gateway.mesh import W3C_HEADERS, as_they_came
from gateway.tracing.facts import RequestTrace
from gateway.tracing.propagation import NOWHERE, Propagation, parent_of
from gateway.tracing.sampling import Head, is_kept

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
        head: Head,
        ids: IdGenerator,
        writer: SpanWriter | None,
        meters: Meters | None,
        keeps_text: bool,
        shutdowns: list[Shutdown],
    ) -> None:
        """`writer` is None where only metrics are exported."""
        self._propagation = propagation
        self._head = head
        self._ids = ids
        # Asked by getattr: generators from before 1.45 do not say.
        says = getattr(ids, "is_trace_id_random", None)
        self._random = _RANDOM if says is not None and says() else 0
        self._writer = writer
        self._meters = meters
        # What is dropped has no facts, unless somebody measures it.
        self._is_brief = meters is None and propagation.is_w3c
        self._keeps_text = keeps_text
        self._shutdowns = shutdowns

    def begin(self, exchange: Exchange) -> None:
        """Give a request that has just arrived its trace, or what carries it on."""
        if exchange.wire.head.path in UNTRACED:
            return
        try:
            self._begin(exchange)
        except Exception:
            # A plugin's sampler or generator; the request goes on without a trace.
            logger.exception("beginning a trace failed")

    def _begin(self, exchange: Exchange) -> None:
        if self._writer is None:
            exchange.trace = RequestTrace(
                0, 0, 0, carry=_as_it_came(exchange), new_span_id=_no_id
            )
        elif self._propagation.is_carried_by(exchange.headers):
            self._join(exchange)
        else:
            # Most requests, where nothing in front of the gateway traces.
            self._root(exchange, NOWHERE)

    def _root(self, exchange: Exchange, context: Context) -> None:
        trace_id = self._ids.generate_trace_id()
        if self._is_brief and not context and self._head.drops_root(trace_id):
            ids = (trace_id, self._ids.generate_span_id())
            parent = b"00-%032x-%016x-00" % ids
            exchange.carried = ((b"traceparent", parent),)
            return
        result = self._head.ask(context, trace_id)
        # Without the flag of randomness while it is dropped: flags are 00 or 03 then,
        # and nobody's parser takes the first for anything but a no.
        random = self._random if is_kept(result) else 0
        trace = self._trace(exchange, trace_id, result, random, context)
        exchange.trace = trace
        if trace.is_sampled:
            note_ids(exchange, trace)

    def _join(self, exchange: Exchange) -> None:
        if self._is_brief and self._head.heeds_no:
            dropped = self._propagation.refused(exchange)
            if dropped is not None:
                record, (trace_id, flags) = exchange.record, dropped
                span_id = b"%016x" % self._ids.generate_span_id()
                exchange.carried = (
                    (b"traceparent", b"00-%b-%b-%b" % (trace_id, span_id, flags)),
                )
                record.trace_id, record.span_id = trace_id.decode(), span_id.decode()
                return
        context = self._propagation.extract(exchange)
        parent = parent_of(context)
        if parent is None:
            self._root(exchange, context)
            return
        result = self._head.ask(context, parent.trace_id)
        random = parent.trace_flags & _RANDOM
        trace = self._trace(exchange, parent.trace_id, result, random, context)
        trace.parent = parent
        exchange.trace = trace
        note_ids(exchange, trace)

    def _trace(
        self,
        exchange: Exchange,
        trace_id: int,
        result: SamplingResult,
        random: int,
        context: Context,
    ) -> RequestTrace:
        new_id = self._ids.generate_span_id
        trace = RequestTrace(
            trace_id,
            new_id(),
            random | _SAMPLED if is_kept(result) else random,
            carry=self._propagation.carry,
            new_span_id=new_id,
            keeps_text=self._keeps_text,
        )
        trace.context, trace.sampling = context, result
        if not self._propagation.is_w3c:
            trace.writes = self._propagation.fields
        if context or result.trace_state:
            trace.passed = self._propagation.passed(exchange, result.trace_state)
        return trace

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


def note_ids(exchange: Exchange, trace: RequestTrace) -> None:
    """Put them into the access line."""
    record = exchange.record
    record.trace_id, record.span_id = trace.hex_id, trace.hex_span_id


def _no_id() -> int:
    return 0


def _as_it_came(
    exchange: Exchange,
) -> Callable[[RequestTrace, int], tuple[Header, ...]]:
    # As the gateway does where nothing is exported.
    found = tuple(as_they_came(exchange, W3C_HEADERS))
    return lambda trace, span_id: found
