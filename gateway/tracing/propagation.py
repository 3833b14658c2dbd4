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
        found = [
            value.decode("latin-1")
            for each, value in carrier.wire.head.headers
            if each == name
        ]
        return found if sum(map(len, found)) <= MOST_CARRIED_BYTES else None

    def keys(self, carrier: Exchange) -> list[str]:
        return [name.decode("latin-1") for name in carrier.headers]


class Propagation:
    """Extracts and injects by the configured propagator."""

    def __init__(self, propagator: TextMapPropagator) -> None:
        self._propagator = propagator
        self._getter = _Headers()
        self._fields = frozenset(field.encode("latin-1") for field in propagator.fields)
        # Ours is written without the propagator's dicts and context: 1 us, not 15.
        self.is_w3c = _is_w3c(propagator)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)

    def is_carried_by(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the caller says anything of a trace."""
        return not self._fields.isdisjoint(headers)

    def refused(self, headers: dict[bytes, bytes]) -> tuple[bytes, bytes] | None:
        """
        The trace id and flags of a caller who says no and nothing else.

        Where everything is traced elsewhere most callers do, and for 1 us; whatever is
        not exactly that is for `extract`.
        """
        if _BESIDE.isdisjoint(headers):
            found = _REFUSED.fullmatch(headers[b"traceparent"])
            if found is not None:
                return found.group(1), found.group(2)
        return None

    def extract(self, exchange: Exchange) -> Context:
        """The caller's context; an empty one if what it sent is none."""
        try:
            return self._propagator.extract(exchange, NOWHERE, self._getter)
        except Exception:
            # A stranger's headers, read by anybody's plugin.
            logger.debug("trace headers could not be read", exc_info=True)
            return NOWHERE

    def passed(self, trace_state: Any, context: Context) -> tuple[Header, ...]:
        """What W3C has travel beside the ids: read once, the same for each attempt."""
        if not self.is_w3c:
            return ()
        state = trace_state.to_header() if trace_state else ""
        found: list[Header] = [(b"tracestate", state.encode("latin-1"))]
        carrier: dict[str, str] = {}
        W3CBaggagePropagator().inject(carrier, context)
        baggage = carrier.get("baggage", "")
        found.append((b"baggage", baggage.encode("latin-1", "replace")))
        return tuple((name, value) for name, value in found if value)

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
        self._propagator.inject(carrier, context)
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
