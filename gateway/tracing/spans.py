"""
A request's spans, written in one go when it has ended: server, admission, attempts.

The server span is an Error for 5xx and for an answer that broke off. A client that left
is a 499 with `error.type` `client_gone` and no Error: for a server, the convention
leaves the status of every 4xx unset, and nothing of ours went wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from gateway import __version__
from gateway.tracing import semconv
from gateway.tracing.attributes import (
    MOST_CHARACTERS,
    admission_attributes,
    attempt_attributes,
    is_error,
    operation_of,
    server_attributes,
    span_name,
)

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.tracing.facts import RequestTrace

# More than any span of ours has; OpenTelemetry's default bound is 128.
MOST_ATTRIBUTES: Final = 64

_UNSET: Final = Status(StatusCode.UNSET)
_ERROR: Final = Status(StatusCode.ERROR)

# Given up by us, so that nothing is wrong with the upstream.
_GIVEN_UP: Final = frozenset({semconv.GONE, semconv.SHUTTING_DOWN})


class SpanWriter:
    """
    Makes the SDK's spans out of a request's facts, and queues them for export.

    Finished ones, without the tracer's: those are built to be changed by anybody at any
    time, with a lock and a cleaning for each attribute, at three times the cost.
    """

    def __init__(
        self,
        processors: Sequence[SpanProcessor],
        resource: Resource,
        limits: SpanLimits,
        new_span_id: Callable[[], int],
    ) -> None:
        self._processors = processors
        self._resource = resource
        self._limits = limits
        # Ours are within the defaults by themselves.
        self._is_limited = (
            limits.max_span_attributes is not None
            and limits.max_span_attributes < MOST_ATTRIBUTES
        ) or limits.max_span_attribute_length is not None
        self._new_span_id = new_span_id
        self._scope = InstrumentationScope(semconv.SCOPE, __version__)

    def write(self, exchange: Exchange, trace: RequestTrace, ended_ns: int) -> None:
        spans = [
            *self._admission(exchange, trace, ended_ns),
            *self._attempts(exchange, trace, ended_ns),
            self._server(exchange, trace, ended_ns),
        ]
        for processor in self._processors:
            for span in spans:
                processor.on_end(span)

    def _server(
        self, exchange: Exchange, trace: RequestTrace, ended_ns: int
    ) -> ReadableSpan:
        attributes = server_attributes(exchange, trace)
        if trace.sampling.attributes:
            attributes |= trace.sampling.attributes
        return self._span(
            trace,
            span_name(exchange),
            trace.span_id,
            attributes,
            kind=SpanKind.SERVER,
            is_error=is_error(exchange.record),
            times_ns=(trace.started_ns, ended_ns),
            events=_events(exchange, trace, ended_ns)[: self._limits.max_events],
        )

    def _admission(
        self, exchange: Exchange, trace: RequestTrace, ended_ns: int
    ) -> Iterator[ReadableSpan]:
        if trace.admission_started_ns:
            # Cancelled before it was decided, it was asked until the end.
            ended_ns = trace.admission_ended_ns or ended_ns
            yield self._span(
                trace,
                semconv.ADMISSION_SPAN,
                self._new_span_id(),
                admission_attributes(exchange.record, trace),
                times_ns=(trace.admission_started_ns, ended_ns),
            )

    def _attempts(
        self, exchange: Exchange, trace: RequestTrace, ended_ns: int
    ) -> Iterator[ReadableSpan]:
        record = exchange.record
        model = (record.model or semconv.OTHER)[:MOST_CHARACTERS]
        name = f"{operation_of(record)} {model}"
        for number, attempt in enumerate(trace.attempts):
            told = attempt_attributes(record, trace, number, attempt)
            failed = told.get(semconv.ERROR_TYPE)
            yield self._span(
                trace,
                name,
                attempt.span_id,
                told,
                kind=SpanKind.CLIENT,
                is_error=failed is not None and failed not in _GIVEN_UP,
                times_ns=(attempt.started_ns, attempt.ended_ns or ended_ns),
            )

    def _span(
        self,
        trace: RequestTrace,
        name: str,
        span_id: int,
        attributes: Mapping[str, Any],
        *,
        times_ns: tuple[int, int],
        kind: SpanKind = SpanKind.INTERNAL,
        is_error: bool = False,
        events: Sequence[Event] = (),
    ) -> ReadableSpan:
        if self._is_limited:
            attributes = BoundedAttributes(
                self._limits.max_span_attributes,
                attributes,
                max_value_len=self._limits.max_span_attribute_length,
            )
        is_server = span_id == trace.span_id
        return ReadableSpan(
            name,
            _context(trace, span_id),
            trace.parent if is_server else _context(trace, trace.span_id),
            self._resource,
            attributes,
            events,
            kind=kind,
            status=_ERROR if is_error else _UNSET,
            start_time=times_ns[0],
            end_time=times_ns[1],
            instrumentation_scope=self._scope,
        )


def _context(trace: RequestTrace, span_id: int) -> SpanContext:
    return SpanContext(
        trace.trace_id,
        span_id,
        is_remote=False,
        trace_flags=TraceFlags(trace.flags),
        trace_state=trace.sampling.trace_state,
    )


def _events(exchange: Exchange, trace: RequestTrace, ended_ns: int) -> list[Event]:
    first_s = exchange.record.first_token_s
    events = []
    if first_s is not None:
        first_ns = trace.started_ns + int(first_s * 1e9)
        events.append(Event(semconv.FIRST_TOKEN_EVENT, timestamp=first_ns))
    if trace.stream_ended_ns:
        events.append(Event(semconv.END_EVENT, timestamp=trace.stream_ended_ns))
    if trace.crash is not None:
        # Its kind alone: message and stack may hold what was asked.
        kind = {semconv.EXCEPTION_TYPE: trace.crash}
        events.append(Event(semconv.EXCEPTION_EVENT, kind, timestamp=ended_ns))
    return events
