"""
The head's decision, taken once, before anything is made that a dropped request pays.

Spans are written when their request has ended. The SDK's tracer then asks its sampler
and its generator of ids again: it is told what was decided, and which ids were used.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.trace import Link, SpanKind, TraceState
    from opentelemetry.util.types import AnyValue


class Decided(Sampler):
    """Samples whatever reaches it, as the head's sampler has."""

    def __init__(self, head: Sampler) -> None:
        self.head = head
        # The head's answer for the request whose spans are being written.
        self.result: SamplingResult | None = None

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, AnyValue] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        result = self.result
        state = None if result is None else result.trace_state
        return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, state)

    def get_description(self) -> str:
        return self.head.get_description()


class HandedIds(IdGenerator):
    """Gives out the ids that were used while the request ran."""

    def __init__(self, source: IdGenerator) -> None:
        self.source = source
        self.trace_id = 0
        self.span_ids: deque[int] = deque()

    def generate_span_id(self) -> int:
        return self.span_ids.popleft() if self.span_ids else self._new_span_id()

    def _new_span_id(self) -> int:
        return self.source.generate_span_id()

    def generate_trace_id(self) -> int:
        return self.trace_id or self.source.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        # Asked by getattr: generators from before 1.45 do not say.
        says: Any = getattr(self.source, "is_trace_id_random", None)
        return bool(says and says())
