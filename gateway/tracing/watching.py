"""A traced stream on its way: what it says of itself, without reading its text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.translation.port import StreamTranslator
    from gateway.translation.usage import TokenUsage

# Of each stream this much is kept where its text was asked for.
KEPT_BYTES: Final = 64 * 1024

_REASON_KEY: Final = b'"finish_reason":"'
_REASON: Final = re.compile(rb'"finish_reason":"([a-z_]{1,32})"')
# Both stand before the first choice, and so before any text.
_HEAD_BYTES: Final = 1024


class WatchedStream:
    """Implements `StreamTranslator` around another."""

    __slots__ = ("_stream", "_takes", "frames", "head", "reasons")

    def __init__(self, stream: StreamTranslator, *, keeps_text: bool) -> None:
        self._stream = stream
        # The first frame's beginning, with its id and model.
        self.head = b""
        self.reasons: list[str] = []
        self.frames: list[bytes] = []
        self._takes = KEPT_BYTES if keeps_text else 0

    @property
    def usage(self) -> TokenUsage:
        return self._stream.usage

    def feed(self, data: bytes) -> bytes:
        return self._seen(self._stream.feed(data))

    def feed_whole(self, body: bytes) -> bytes:
        return self._seen(self._stream.feed_whole(body))

    def finish(self, *, is_marked: bool) -> bytes:
        return self._seen(self._stream.finish(is_marked=is_marked))

    def _seen(self, frames: bytes) -> bytes:
        if not self.head:
            self.head = frames[:_HEAD_BYTES]
        if _REASON_KEY in frames:
            self.reasons += [found.decode() for found in _REASON.findall(frames)]
        if self._takes > 0:
            self.frames.append(frames[: self._takes])
            self._takes -= len(frames)
        return frames
