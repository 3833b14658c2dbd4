"""The conventions' own metrics, over OTLP: beside Prometheus, for who collects that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.metrics import MeterProvider

from gateway import __version__
from gateway.tracing import semconv
from gateway.tracing.attributes import (
    Attributes,
    attempt_error,
    error_type,
    first_chunk_s,
    method_of,
    operation_of,
    place_of,
    route_of,
)

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.record import Record
    from gateway.tracing.facts import RequestTrace


class Meters:
    """Records every request, whether or not it is traced."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(semconv.SCOPE, __version__)
        self._server_duration = meter.create_histogram(
            semconv.SERVER_DURATION,
            "s",
            "From a request's first header byte to its answer's last.",
            explicit_bucket_boundaries_advisory=semconv.SERVER_DURATION_BOUNDS,
        )
        self._duration = meter.create_histogram(
            semconv.OPERATION_DURATION,
            "s",
            "From the first attempt upstream to the end of the answer.",
            explicit_bucket_boundaries_advisory=semconv.OPERATION_BOUNDS,
        )
        self._first_chunk = meter.create_histogram(
            semconv.FIRST_CHUNK,
            "s",
            "From the answered attempt to the first token that was sent on.",
            explicit_bucket_boundaries_advisory=semconv.OPERATION_BOUNDS,
        )
        self._tokens = meter.create_histogram(
            semconv.TOKEN_USAGE,
            "{token}",
            "Tokens of an answered request, as reported or else estimated.",
            explicit_bucket_boundaries_advisory=semconv.TOKEN_BOUNDS,
        )

    def record(self, exchange: Exchange, trace: RequestTrace, ended_ns: int) -> None:
        record, head = exchange.record, exchange.wire.head
        told: Attributes = {
            semconv.METHOD: method_of(head.method),
            semconv.URL_SCHEME: "http",
            semconv.STATUS_CODE: record.status,
            semconv.PROTOCOL_VERSION: head.version,
        }
        route, failed = route_of(record), error_type(record, trace.crash)
        if route is not None:
            told[semconv.ROUTE] = route
        if failed is not None:
            told[semconv.ERROR_TYPE] = failed
        self._server_duration.record(exchange.elapsed_s, told)
        if trace.attempts:
            self._operation(record, trace, ended_ns)

    def _operation(self, record: Record, trace: RequestTrace, ended_ns: int) -> None:
        first, last = trace.attempts[0], trace.attempts[-1]
        address, port = place_of(last)
        told: Attributes = {
            semconv.OPERATION: operation_of(record),
            semconv.PROVIDER: semconv.PROVIDER_NAME,
            semconv.SERVER_ADDRESS: address or "",
            semconv.SERVER_PORT: port or 0,
        }
        is_answered = last.is_answered
        # Any client can ask for any model; those that answer are the fleet's.
        if is_answered and record.model is not None:
            told[semconv.REQUEST_MODEL] = record.model
        failed = attempt_error(record, last)
        timed = told if failed is None else {**told, semconv.ERROR_TYPE: failed}
        spent_ns = (last.ended_ns or ended_ns) - first.started_ns
        self._duration.record(max(0, spent_ns) / 1e9, timed)
        if not is_answered:
            return
        first_s = first_chunk_s(record, trace, last)
        if first_s is not None:
            self._first_chunk.record(first_s, told)
        for kind, count in (
            ("input", record.input_tokens),
            ("output", record.output_tokens),
        ):
            if count is not None:
                self._tokens.record(count, {**told, semconv.TOKEN_TYPE: kind})
