"""What the path asks of a translation, whichever route it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, TypeAlias

import msgspec

from gateway.translation.usage import TokenUsage

Route: TypeAlias = Literal["inference", "chat", "playground", "batch", "fine_tune"]


class Stamp(msgspec.Struct, frozen=True):
    """What an answer is identified by, fixed before it begins."""

    answer_id: str
    created_s: int


class TokenDemand(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may cost, as far as it says."""

    # Its text, its parts, and the frames that a chat template puts around messages.
    input_tokens: int
    # Its text alone: what the inference route is sent, and the ratio of split totals.
    text_tokens: int
    # What the caller allowed each choice; None where it did not say.
    max_output_tokens: int | None
    choices: int = 1
    # Of several prompts the longest, which is what a plan bounds; None where there is
    # only one.
    longest_input_tokens: int | None = None
    # Under which names the caller said it, for errors about it.
    input_param: str = "messages"
    output_param: str = "max_tokens"

    @property
    def most_output_tokens(self) -> int | None:
        """What the caller allowed all choices together."""
        if self.max_output_tokens is None:
            return None
        return self.max_output_tokens * self.choices


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One call to LLMTune, ready to be sent."""

    route: Route
    # Below the upstream's base URL, percent-encoded, with its leading slash.
    path: str
    body: bytes
    is_stream: bool


class WholeAnswer(msgspec.Struct, frozen=True):
    """A complete answer in the caller's shape, and what it cost."""

    body: bytes
    usage: TokenUsage
    # Whether nobody will ever say what it cost, so that what was reserved stands.
    is_as_reserved: bool = False


class StreamTranslator(Protocol):
    """Upstream events in, the caller's events out, and the meter that runs along."""

    @property
    def usage(self) -> TokenUsage:
        """What was delivered up to now: reported by the upstream, or estimated."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Translate one upstream event; the frames may be empty."""
        ...

    def feed_whole(self, body: bytes) -> bytes:
        """Translate the whole answer of an upstream that does not stream."""
        ...

    def finish(self, *, is_marked: bool) -> bytes:
        """
        The frames that end the stream, after the upstream's real end.

        `is_marked` says that the upstream announced its end; without it, an answer that
        never reached a finish reason was cut off, and that is an error.
        """
        ...


class Translator(Protocol):
    """One parsed request of one route."""

    @property
    def model(self) -> str: ...

    @property
    def is_stream(self) -> bool: ...

    @property
    def demand(self) -> TokenDemand: ...

    def find_route(self) -> Route:
        """What carries it upstream; InvalidRequest if nothing can as it is."""
        ...

    def to_upstream(self) -> UpstreamRequest:
        """The call of that route; whatever could be wrong, `find_route` has told."""
        ...

    def from_upstream(self, body: bytes, stamp: Stamp) -> WholeAnswer: ...

    def stream(self, stamp: Stamp) -> StreamTranslator: ...


# A request's body as the request it is; InvalidRequest and its like.
Parse: TypeAlias = Callable[[bytes], Translator]
