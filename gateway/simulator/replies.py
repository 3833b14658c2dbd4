"""What a route answers, before it is paced, spoiled by a fault or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

Header: TypeAlias = tuple[bytes, bytes]

encode_json = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """A whole JSON answer."""

    body: bytes
    status: int = 200
    headers: tuple[Header, ...] = ()
    # How many tokens a model wrote for it; None where no model was at work, so that
    # neither ttft nor pace apply.
    written_tokens: int | None = None


class StreamedReply(msgspec.Struct, frozen=True):
    """Server-sent events, made anew each time: a stored one replays from the start."""

    events: Callable[[], Iterable[bytes]]
    # What keeping it costs in memory: its tokens, not the events made of them.
    size_bytes: int


AnyReply: TypeAlias = Reply | StreamedReply


def json_reply(value: object, written_tokens: int | None = None) -> Reply:
    return Reply(encode_json(value), written_tokens=written_tokens)


def streamed(
    events: Callable[[], Iterable[bytes]], written_tokens: int
) -> StreamedReply:
    # A list of words that other answers share; long JSON ones have their own.
    return StreamedReply(events, size_bytes=1_024 + 64 * written_tokens)
