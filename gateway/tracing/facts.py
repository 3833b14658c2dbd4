"""
What is noted of one request for its trace while it runs: times, ids, and references.

A note is an assignment; everything dear happens when the request has ended. Nothing
here knows OpenTelemetry, or keeps a prompt while a stream is open, unless its content
was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gateway.errors import GatewayError, Header
from gateway.tracing.bodies import Parameters, read_parameters
from gateway.tracing.watching import WatchedStream

if TYPE_CHECKING:
    from gateway.lease import Lease
    from gateway.translation.port import StreamTranslator

# Larger bodies are not looked through for their parameters: 0.1 ms for 128 KiB.
LOOKED_INTO_BYTES: Final = 128 * 1024


class Attempt:
    """One HTTP exchange with the upstream."""

    __slots__ = ("ended_ns", "error", "span_id", "started_ns", "status", "url")

    def __init__(self, span_id: int, url: str) -> None:
        self.span_id = span_id
        self.url = url
        self.started_ns = time.time_ns()
        self.ended_ns = 0
        self.status: int | None = None
        self.error: str | None = None

    @property
    def is_answered(self) -> bool:
        """Whether its status said that its answer follows."""
        return self.status is not None and self.error is None


# The headers that carry a request's trace on from the span with this id.
Carry: TypeAlias = Callable[["RequestTrace", int], tuple[Header, ...]]


class RequestTrace:
    """The facts of one request's trace, and what carries it to the upstream."""

    __slots__ = (
        "_carry",
        "_new_span_id",
        "admission_ended_ns",
        "admission_started_ns",
        "attempts",
        "body",
        "context",
        "crash",
        "error",
        "flags",
        "is_sampled",
        "keeps_text",
        "lease",
        "parameters",
        "parent",
        "passed",
        "sampling",
        "span_id",
        "started_ns",
        "stream_ended_ns",
        "trace_id",
        "watched",
        "writes",
    )

    def __init__(
        self,
        trace_id: int,
        span_id: int,
        flags: int,
        *,
        carry: Carry,
        new_span_id: Callable[[], int],
        keeps_text: bool = False,
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.is_sampled = bool(flags & 1)
        self._carry = carry
        self._new_span_id = new_span_id
        # Whether prompts and answers may be in its spans.
        self.keeps_text = keeps_text
        # What travels with the trace unchanged: tracestate and baggage.
        self.passed: tuple[Header, ...] = ()
        # What it writes beside W3C's headers.
        self.writes: frozenset[bytes] = frozenset()
        self.started_ns = time.time_ns()
        # The caller's context and the sampler's answer, which only `tracing` reads.
        self.context: Any = None
        self.sampling: Any = None
        # Of a caller's trace, its span.
        self.parent: Any = None
        self.admission_started_ns = self.admission_ended_ns = 0
        self.stream_ended_ns = 0
        self.lease: Lease | None = None
        self.error: GatewayError | None = None
        self.crash: str | None = None
        self.attempts: list[Attempt] = []
        # Of a sampled request: what it asked for, and its whole answer.
        self.parameters: Parameters | None = None
        self.body: bytes | None = None
        self.watched: WatchedStream | None = None

    @property
    def hex_id(self) -> str:
        return f"{self.trace_id:032x}"

    @property
    def hex_span_id(self) -> str:
        return f"{self.span_id:016x}"

    def asked(self, raw: bytes) -> None:
        """A body that was found to be good."""
        if self.is_sampled and len(raw) <= LOOKED_INTO_BYTES:
            self.parameters = read_parameters(raw, keeps_text=self.keeps_text)

    def admitting(self) -> None:
        """The plan is asked from here on."""
        self.admission_started_ns = time.time_ns()

    def admitted(self, lease: Lease) -> None:
        self.admission_ended_ns = time.time_ns()
        # Asked for its charge at the end, when it has been settled.
        self.lease = lease

    def attempt(self, url: str) -> tuple[Header, ...]:
        """An attempt begins; the headers that carry the trace to the upstream."""
        span_id = self._new_span_id()
        self.attempts.append(Attempt(span_id, url))
        return self._carry(self, span_id)

    def attempt_failed(self, status: int | None, error: GatewayError) -> None:
        attempt = self.attempts[-1]
        attempt.ended_ns = time.time_ns()
        attempt.status = status
        # A word from a closed set, as in the metrics.
        attempt.error = error.fault or "refused"

    def attempt_accepted(self, status: int) -> None:
        """Its body is still to come."""
        self.attempts[-1].status = status

    def attempt_over(self) -> None:
        """Its body has ended, or was given up."""
        self.attempts[-1].ended_ns = time.time_ns()

    def answered(self, body: bytes) -> None:
        """The whole answer, in the caller's shape."""
        if self.is_sampled:
            self.body = body

    def watch(self, stream: StreamTranslator) -> StreamTranslator:
        """The same stream, looked at where its trace is kept."""
        if not self.is_sampled:
            return stream
        self.watched = WatchedStream(stream, keeps_text=self.keeps_text)
        return self.watched

    def stream_ended(self) -> None:
        """The end of a stream was sent."""
        self.stream_ended_ns = time.time_ns()

    def failed(self, error: GatewayError) -> None:
        """What the request ended in; refused by its plan, it was decided here."""
        if self.admission_started_ns and not self.admission_ended_ns:
            self.admission_ended_ns = time.time_ns()
        self.error = error

    def crashed(self, cause: BaseException) -> None:
        """A fault of ours: its name only, since its text may hold anything."""
        self.crash = type(cause).__qualname__
