"""
Server-sent events, in every form LLMTune has been seen to send.

Pure generators of encoded events; when each is written is `delivery`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal

import msgspec

from gateway.simulator.replies import encode_json

DONE: Final = b"data: [DONE]\n\n"

OPENING: Final = b'{"role":"assistant","content":""}'


class Delta(msgspec.Struct, frozen=True):
    """One step of one choice, encoded: what follows `"delta":` and `"logprobs":`."""

    body: bytes
    logprobs: bytes = b"null"


class StreamedChoice(msgspec.Struct, frozen=True):
    deltas: Iterable[Delta]
    finish_reason: str
    opening: bytes = OPENING


def object_events(
    field: Literal["text", "token", "delta"], pieces: Sequence[str]
) -> Iterator[bytes]:
    """`{"text": "..."}` and its like: one small object a token."""
    head = f'data: {{"{field}":'.encode()
    for piece in pieces:
        yield head + encode_json(piece) + b"}\n\n"
    yield DONE


def text_deltas(pieces: Sequence[str]) -> Iterator[Delta]:
    for piece in pieces:
        yield Delta(b'{"content":' + encode_json(piece) + b"}")


class ChunkFrame:
    """What all chunks of one stream have in common, encoded once."""

    def __init__(
        self, answer_id: str, model: str, created: int, *, with_usage: bool
    ) -> None:
        self._head = (
            b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,'
            b'"model":%b,"choices":['
            % (encode_json(answer_id), created, encode_json(model))
        )
        # OpenAI sends the null only to those who asked for usage.
        self._tail = b'],"usage":null}\n\n' if with_usage else b"]}\n\n"

    def chunk(self, index: int, delta: Delta, finish_reason: bytes = b"null") -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            index,
            delta.body,
            delta.logprobs,
            finish_reason,
            self._tail,
        )

    def usage_chunk(self, usage: object) -> bytes:
        return b'%b],"usage":%b}\n\n' % (self._head, encode_json(usage))


def chunk_events(
    frame: ChunkFrame, choices: Sequence[StreamedChoice], usage: object = None
) -> Iterator[bytes]:
    """OpenAI's chunks; the choices take turns, first appearing in index order."""
    for index, choice in enumerate(choices):
        yield frame.chunk(index, Delta(choice.opening))
    running = [(i, iter(c.deltas), c.finish_reason) for i, c in enumerate(choices)]
    while running:
        still_running = []
        for index, deltas, finish_reason in running:
            delta = next(deltas, None)
            if delta is None:
                yield frame.chunk(index, Delta(b"{}"), encode_json(finish_reason))
            else:
                yield frame.chunk(index, delta)
                still_running.append((index, deltas, finish_reason))
        running = still_running
    if usage is not None:
        yield frame.usage_chunk(usage)
    yield DONE
