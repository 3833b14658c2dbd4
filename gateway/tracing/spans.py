"""
A request's spans, written in one go when it has ended: server, admission, attempts.

The server span is an Error for 5xx and for an answer that broke off. A client that left
is a 499 with `error.type` `client_gone` and no Error: for a server, the convention
leaves the status of every 4xx unset, and nothing of ours went wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, StatusCode, set_span_in_context

from gateway import __version__
from gateway.tracing import semconv
from gateway.tracing.attributes import (
    admission_attributes,
    attempt_attributes,
    is_error,
    operation_of,
    server_attributes,
    span_name,
)
from gateway.tracing.propagation import NOWHERE
from gateway.tracing.sampling import Decided, HandedIds

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.tracing.facts import RequestTrace

# Given up by us, so that nothing is wrong with the upstream.
_GIVEN_UP: Final = frozenset({semconv.GONE, "shutting_down"})


class SpanWriter:
    """Makes the SDK's spans out of a request's facts."""

    def __init__(
        self, provider: TracerProvider, sampler: Decided, ids: HandedIds
    ) -> None:
        self._tracer = provider.get_tracer(semconv.SCOPE, __version__)
        self._sampler = sampler
        self._ids = ids

    def write(self, exchange: Exchange, trace: RequestTrace, ended_ns: int) -> None:
        self._sampler.result, self._ids.trace_id = trace.sampling, trace.trace_id
        try:
            server = self._server(exchange, trace)
            inside = set_span_in_context(server, NOWHERE)
            self._admission(exchange, trace, inside, ended_ns)
            self._attempts(exchange, trace, inside, ended_ns)
            server.end(ended_ns)
        finally:
            self._sampler.result, self._ids.trace_id = None, 0
            self._ids.span_ids.clear()

    def _server(self, exchange: Exchange, trace: RequestTrace) -> Span:
        record = exchange.record
        added = trace.sampling.attributes or {}
        self._ids.span_ids.append(trace.span_id)
        span = self._tracer.start_span(
            span_name(exchange),
            trace.context or NOWHERE,
            SpanKind.SERVER,
            {**added, **server_attributes(exchange, trace)},
            start_time=trace.started_ns,
        )
        if record.first_token_s is not None:
            first_ns = trace.started_ns + int(record.first_token_s * 1e9)
            span.add_event(semconv.FIRST_TOKEN_EVENT, timestamp=first_ns)
        if trace.stream_ended_ns:
            span.add_event(semconv.END_EVENT, timestamp=trace.stream_ended_ns)
        if trace.crash is not None:
            # Its kind alone: message and stack may hold what was asked.
            kind = {semconv.EXCEPTION_TYPE: trace.crash}
            span.add_event(semconv.EXCEPTION_EVENT, kind)
        if is_error(record):
            span.set_status(StatusCode.ERROR)
        return span

    def _admission(
        self, exchange: Exchange, trace: RequestTrace, inside: Context, ended_ns: int
    ) -> None:
        if not trace.admission_started_ns:
            return
        span = self._tracer.start_span(
            semconv.ADMISSION_SPAN,
            inside,
            SpanKind.INTERNAL,
            admission_attributes(exchange.record, trace),
            start_time=trace.admission_started_ns,
        )
        # Cancelled before it was decided, it was asked until the end.
        span.end(trace.admission_ended_ns or ended_ns)

    def _attempts(
        self, exchange: Exchange, trace: RequestTrace, inside: Context, ended_ns: int
    ) -> None:
        record = exchange.record
        name = f"{operation_of(record)} {(record.model or semconv.OTHER)[:256]}"
        for number, attempt in enumerate(trace.attempts):
            told = attempt_attributes(record, trace, number, attempt)
            self._ids.span_ids.append(attempt.span_id)
            span = self._tracer.start_span(
                name, inside, SpanKind.CLIENT, told, start_time=attempt.started_ns
            )
            if told.get(semconv.ERROR_TYPE, semconv.GONE) not in _GIVEN_UP:
                span.set_status(StatusCode.ERROR)
            span.end(attempt.ended_ns or ended_ns)
