"""
What a worker and its supervisor tell each other, and how it is cut into frames.

Pure: bytes in, messages out. Both ends are of one version: the supervisor forked it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import msgspec

_LENGTH_BYTES: Final = 4
# Metrics of 100,000 samples; a thousand of them are 90 KB.
MOST_BYTES: Final = 16 * 1024 * 1024


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """To a worker: say what you have counted."""

    round: int


class Totals(msgspec.Struct, frozen=True, array_like=True, tag="totals"):
    """To a worker: what all have counted, after it asked with this number."""

    number: int
    snapshot: msgspec.Raw


class Serving(msgspec.Struct, frozen=True, array_like=True, tag="serving"):
    """Of a worker: its listeners listen."""


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """Of a worker: it could not start, which a command says with one line."""

    text: str
    exit_code: int


class Leaving(msgspec.Struct, frozen=True, array_like=True, tag="leaving"):
    """Of a worker: it takes nothing new and ends when what runs has finished."""


class Scrape(msgspec.Struct, frozen=True, array_like=True, tag="scrape"):
    """Of a worker: somebody wants to know what all have counted."""

    number: int


class Counted(msgspec.Struct, frozen=True, array_like=True, tag="counted"):
    """Of a worker: its own metrics; round 0 is what nobody asked for, its last."""

    round: int
    snapshot: msgspec.Raw


ToWorker: TypeAlias = Ask | Totals
OfWorker: TypeAlias = Serving | Failed | Leaving | Scrape | Counted

_encode: Final = msgspec.msgpack.Encoder().encode


class BrokenChannel(Exception):
    """What came, or was to be sent, is no frame of ours."""


def frame_of(message: ToWorker | OfWorker) -> bytes:
    """A message as it travels; BrokenChannel if it is too long."""
    payload = _encode(message)
    if len(payload) > MOST_BYTES:
        raise BrokenChannel(f"a message of {len(payload)} bytes")
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


class Frames:
    """Cuts a stream of bytes into the payloads of its frames."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What is complete now."""
        self._bytes += data
        while len(self._bytes) >= _LENGTH_BYTES:
            length = int.from_bytes(self._bytes[:_LENGTH_BYTES], "big")
            if length > MOST_BYTES:
                raise BrokenChannel(f"a frame of {length} bytes")
            end = _LENGTH_BYTES + length
            if len(self._bytes) < end:
                return
            payload = bytes(self._bytes[_LENGTH_BYTES:end])
            del self._bytes[:end]
            yield payload
