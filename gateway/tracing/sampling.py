"""
The head's decision, taken once and cheaply: most requests are dropped.

The SDK's own samplers are not asked where their answer is certain, which is 0.2 us in
place of 2; any other is asked each time. Children are what their server span is.
"""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind


class Head:
    """Asks the configured sampler about a request."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        # Whether a caller's no is ours, whatever else.
        self.heeds_no = False
        root = sampler
        if isinstance(sampler, ParentBased):
            self.heeds_no = sampler._remote_parent_not_sampled is ALWAYS_OFF
            root = sampler._root
        self._bound = _bound_of(root)

    def drops_root(self, trace_id: int) -> bool:
        """Whether it is certain, without being asked, that a new trace is dropped."""
        bound = self._bound
        return (
            bound is not None and trace_id & TraceIdRatioBased.TRACE_ID_LIMIT >= bound
        )

    def ask(self, context: Context, trace_id: int) -> SamplingResult:
        return self._sampler.should_sample(context, trace_id, "HTTP", SpanKind.SERVER)


def is_kept(result: SamplingResult) -> bool:
    # Recorded and not sampled would be made and then exported by nobody.
    return result.decision is Decision.RECORD_AND_SAMPLE


def _bound_of(root: Sampler) -> int | None:
    """The ids from here on are dropped; None where the sampler has to say."""
    if type(root) is TraceIdRatioBased:
        return root.bound
    is_off = isinstance(root, StaticSampler) and root._decision is Decision.DROP
    return 0 if is_off else None
