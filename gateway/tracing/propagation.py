"""
The caller's trace context in, and ours out to the upstream.

What is in the headers is a stranger's: malformed, it is ignored and a new trace begins.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.errors import Header
from gateway.tracing.baggage import good_members

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.tracing.facts import RequestTrace

logger = logging.getLogger(__name__)

NOWHERE: Final = Context()

_BESIDE: Final = frozenset({b"tracestate", b"baggage"})
# Not sampled, with or without the flag of randomness; ids of zeros are none.
_REFUSED: Final = re.compile(
    rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-(0[02])"
)

# W3C's bound for baggage, and more than it wants of tracestate. Longer ones are cut off
# here: the upstream would be sent a stranger's kilobytes.
MOST_CARRIED_BYTES: Final = 8192

# They warn of every malformed header, and a client can send those by the thousand.
_TALKATIVE: Final = (
    "opentelemetry.trace.propagation.tracecontext",
    "opentelemetry.baggage.propagation",
    "opentelemetry.trace.span",
)


class _Headers(Getter["Exchange"]):
    """Reads a request's headers for a propagator; of several of a name, all."""

    def get(self, carrier: Exchange, key: str) -> list[str] | None:
        name = key.lower().encode("latin-1")
        if name not in carrier.headers:
            return None
        found = values_of(carrier, name)
        if sum(map(len, found)) > MOST_CARRIED_BYTES:
            return None
        if name == b"traceparent" and len(found) > 1:
            # Nobody can say which of them it is: W3C has a new trace begin.
            return None
        if name == b"baggage":
            found = [good_members(b",".join(found))]
        return [value.decode("latin-1") for value in found]

    def keys(self, carrier: Exchange) -> list[str]:
        return [name.decode("latin-1") for name in carrier.headers]


def values_of(exchange: Exchange, name: bytes) -> list[bytes]:
    return [value for each, value in exchange.wire.head.headers if each == name]


class Propagation:
    """Extracts and injects by the configured propagator."""

    def __init__(self, propagator: TextMapPropagator) -> None:
        self._propagator = propagator
        self._getter = _Headers()
        # What it writes.
        self.fields = frozenset(field.encode("latin-1") for field in propagator.fields)
        # Ours is written without the propagator's dicts and context: 1 us, not 15.
        self.is_w3c = _is_w3c(propagator)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)

    def is_carried_by(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the caller says anything of a trace, or may do so."""
        # Others read more than the fields they write, as B3 does its two forms.
        return not self.is_w3c or not self.fields.isdisjoint(headers)

    def refused(self, exchange: Exchange) -> tuple[bytes, bytes] | None:
        """
        The trace id and flags of a caller who says no and nothing else.

        Where everything is traced elsewhere most callers do, and for 1 us; whatever is
        not exactly that is for `extract`.
        """
        headers = exchange.headers
        if not _BESIDE.isdisjoint(headers):
            return None
        found = _REFUSED.fullmatch(headers[b"traceparent"])
        if found is None:
            return None
        has_doubles = len(headers) < len(exchange.wire.head.headers)
        if has_doubles and len(values_of(exchange, b"traceparent")) > 1:
            return None
        return found.group(1), found.group(2)

    def extract(self, exchange: Exchange) -> Context:
        """The caller's context; an empty one if what it sent is none."""
        try:
            return self._propagator.extract(exchange, NOWHERE, self._getter)
        except Exception:
            # A stranger's headers, read by anybody's plugin.
            logger.debug("trace headers could not be read", exc_info=True)
            return NOWHERE

    def passed(self, exchange: Exchange, trace_state: Any) -> tuple[Header, ...]:
        """What W3C has travel beside the ids: read once, the same for each attempt."""
        if not self.is_w3c:
            return ()
        state = trace_state.to_header() if trace_state else ""
        (baggage,) = self._getter.get(exchange, "baggage") or ("",)
        found = ((b"tracestate", state), (b"baggage", baggage))
        return tuple((name, value.encode("latin-1")) for name, value in found if value)

    def carry(self, trace: RequestTrace, span_id: int) -> tuple[Header, ...]:
        """The headers that make this span the parent of what the upstream does."""
        if self.is_w3c:
            ids = (trace.trace_id, span_id, trace.flags)
            return ((b"traceparent", b"00-%032x-%016x-%02x" % ids), *trace.passed)
        state = None if trace.sampling is None else trace.sampling.trace_state
        flags = TraceFlags(trace.flags)
        span = SpanContext(
            trace.trace_id,
            span_id,
            is_remote=False,
            trace_flags=flags,
            trace_state=state,
        )
        carrier: dict[str, str] = {}
        context = set_span_in_context(NonRecordingSpan(span), trace.context)
        try:
            self._propagator.inject(carrier, context)
        except Exception:
            # Somebody's plugin, whose fault is no reason to refuse a request.
            logger.exception("trace headers could not be written")
        return tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in carrier.items()
        )


def parent_of(context: Context) -> SpanContext | None:
    """The caller's span, if it is one."""
    span = get_current_span(context).get_span_context()
    return span if span.is_valid else None


def _is_w3c(propagator: TextMapPropagator) -> bool:
    parts = getattr(propagator, "_propagators", [propagator])
    kinds = [type(part) for part in parts]
    return kinds == [TraceContextTextMapPropagator, W3CBaggagePropagator]
