"""
How many tokens an answer used, from whatever the upstream says about it.

LLMTune reports a full split, or an object of two counts, or one total, or nothing.
A total is split in the ratio of our own estimates, so that it still sums to the total.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from policies.estimate import ASCII_TWELFTHS, split_total, text_twelfths

# Beyond this a count is garbage, not usage; it would otherwise spend a whole quota.
MAX_REPORTED: Final = 2**31

# Every spelling that is documented or implied somewhere: no two generations agree.
INPUT_NAMES: Final = (
    "prompt_tokens",
    "input_tokens",
    "promptTokens",
    "inputTokens",
    "input",
    "prompt",
)
OUTPUT_NAMES: Final = (
    "completion_tokens",
    "output_tokens",
    "completionTokens",
    "outputTokens",
    "output",
    "completion",
)
TOTAL_NAMES: Final = ("total_tokens", "totalTokens", "total")
DETAIL_NAMES: Final = ("prompt_tokens_details", "completion_tokens_details")


class TokenUsage(msgspec.Struct, frozen=True):
    """Input and output tokens of one answer."""

    input_tokens: int
    output_tokens: int
    # False where any part is our own estimate.
    is_reported: bool
    # OpenAI's breakdowns, where the upstream sends them.
    details: dict[str, Any] = {}

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def to_openai(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.total_tokens,
            **self.details,
        }


def reported_usage(
    answer: dict[str, Any], input_estimate: int, output_estimate: Callable[[], int]
) -> TokenUsage | None:
    """
    What the answer or event itself says, or None.

    The output is estimated only where a total has to be split: most answers report both
    counts, and the estimate of a long one would be thrown away.
    """
    for name in ("usage", "tokens"):
        said = answer.get(name)
        if isinstance(said, dict):
            usage = _from_counts(said)
            if usage is not None:
                return usage
            total = _first(said, TOTAL_NAMES)
        else:
            total = _count(said)
        if total is not None:
            return _from_total(total, input_estimate, output_estimate())
    return None


def _from_counts(said: dict[str, Any]) -> TokenUsage | None:
    tokens_in, tokens_out = said.get("prompt_tokens"), said.get("completion_tokens")
    if (
        # As most answers say it, and without OpenAI's breakdowns: 2 us less.
        type(tokens_in) is int
        and type(tokens_out) is int
        and 0 <= tokens_in < MAX_REPORTED
        and 0 <= tokens_out < MAX_REPORTED
        and DETAIL_NAMES[0] not in said
        and DETAIL_NAMES[1] not in said
    ):
        return TokenUsage(tokens_in, tokens_out, is_reported=True)
    tokens_in = _first(said, INPUT_NAMES)
    tokens_out = _first(said, OUTPUT_NAMES)
    if tokens_in is not None and tokens_out is not None:
        details = {n: said[n] for n in DETAIL_NAMES if isinstance(said.get(n), dict)}
        return TokenUsage(tokens_in, tokens_out, is_reported=True, details=details)
    total = _first(said, TOTAL_NAMES)
    if total is None:
        return None
    # A side that is missing follows from the other and the total.
    if tokens_in is not None:
        return TokenUsage(tokens_in, max(0, total - tokens_in), is_reported=True)
    if tokens_out is not None:
        return TokenUsage(max(0, total - tokens_out), tokens_out, is_reported=True)
    return None


def _from_total(total: int, input_estimate: int, output_estimate: int) -> TokenUsage:
    tokens_in, tokens_out = split_total(total, input_estimate, output_estimate)
    return TokenUsage(tokens_in, tokens_out, is_reported=False)


def _first(said: dict[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        if (count := _count(said.get(name))) is not None:
            return count
    return None


def _count(value: Any) -> int | None:
    # Exactly: a bool is an int too.
    return value if type(value) is int and 0 <= value < MAX_REPORTED else None


class StreamMeter:
    """
    Counts an answer that arrives in pieces: estimated until the upstream reports.

    `most_tokens` is what the caller allowed all choices together: no honest upstream
    writes more, so no estimate may say so.
    """

    __slots__ = (
        "_estimated_when_reported",
        "_input_tokens",
        "_most_tokens",
        "_reported",
        "_twelfths",
    )

    def __init__(self, input_tokens: int, most_tokens: int | None) -> None:
        self._input_tokens = input_tokens
        self._most_tokens = most_tokens
        # In twelfths of a token: each estimate of a piece would round up, and a stream
        # of single characters count one token each.
        self._twelfths = 0
        self._reported: TokenUsage | None = None
        self._estimated_when_reported = 0

    def add(self, text: str) -> None:
        """Text that is sent on."""
        if text.isascii():
            self._twelfths += ASCII_TWELFTHS * len(text)  # as most is: 0.2 us less
        else:
            self._twelfths += text_twelfths(text)

    def note(self, reported: dict[str, Any] | None) -> None:
        """What an event says of the usage; the last that says anything counts."""
        if reported is None:
            return
        usage = reported_usage(reported, self._input_tokens, self._output_estimate)
        if usage is not None:
            self.settle(usage)

    def settle(self, usage: TokenUsage) -> None:
        """Take a whole answer's usage."""
        self._reported = usage
        self._estimated_when_reported = self._output_estimate()

    @property
    def usage(self) -> TokenUsage:
        estimate = self._output_estimate()
        reported = self._reported
        if reported is None:
            return TokenUsage(self._input_tokens, estimate, is_reported=False)
        if estimate > self._estimated_when_reported:
            # More text came after the report, so it was only the usage until then.
            more = max(reported.output_tokens, estimate)
            return TokenUsage(reported.input_tokens, more, is_reported=False)
        return reported

    def _output_estimate(self) -> int:
        tokens = -(-self._twelfths // 12)
        return tokens if self._most_tokens is None else min(tokens, self._most_tokens)
