"""An answer as it lies in a store: packed, and compressed where that is worth it."""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

import msgspec

from policies.replay.port import KeptAnswer

# Below this an answer gains less than its head takes; JSON of more halves at least.
COMPRESSED_ABOVE_BYTES: Final = 4096

# This much takes 1 ms, and a thread's hand-over 50 us.
PACKED_BESIDE_BYTES: Final = 128 * 1024

# The fastest: a MiB of events takes 10 ms, and the best level gains a tenth more.
_LEVEL: Final = 1

_PLAIN: Final = b"\0"
_DEFLATED: Final = b"\1"

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(KeptAnswer).decode


def pack_answer(answer: KeptAnswer) -> bytes:
    packed = _encode(answer)
    if len(packed) <= COMPRESSED_ABOVE_BYTES:
        return _PLAIN + packed
    return _DEFLATED + zlib.compress(packed, _LEVEL)


async def pack_beside(answer: KeptAnswer) -> bytes:
    """The same, in a thread where it would hold up everybody else."""
    if len(answer.body) <= PACKED_BESIDE_BYTES:
        return pack_answer(answer)
    return await asyncio.to_thread(pack_answer, answer)


def unpack_answer(packed: bytes) -> KeptAnswer:
    """The answer; ValueError if these bytes are none."""
    form, rest = packed[:1], packed[1:]
    if form == _DEFLATED:
        try:
            rest = zlib.decompress(rest)
        except zlib.error as error:
            raise ValueError("a kept answer cannot be decompressed") from error
    elif form != _PLAIN:
        raise ValueError("a kept answer of a form that is not known here")
    return _decode(rest)
