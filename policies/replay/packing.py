"""
What was recorded as it lies in a store: compressed where that is worth it, and sealed.

A packed piece is one byte of form, and what that says: plain or deflated, bare or
sealed. Forms of all kinds may lie side by side, so settings can change at any time.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from policies.replay.port import AnswerHead

if TYPE_CHECKING:
    from policies.replay.sealing import Seal

# Below this a piece gains less than its head takes; JSON of more halves at least.
COMPRESSED_ABOVE_BYTES: Final = 4096

# The fastest: a MiB of events takes 10 ms, and the best level gains a tenth more.
_LEVEL: Final = 1

_DEFLATED: Final = 1
_SEALED: Final = 2

_encode_head: Final = msgspec.msgpack.Encoder().encode
_decode_head: Final = msgspec.msgpack.Decoder(AnswerHead).decode


class Packing:
    """Packs pieces and unpacks them; sealed if there is a seal."""

    def __init__(self, seal: Seal | None = None) -> None:
        self._seal = seal

    def fingerprints(self, fingerprint: bytes) -> tuple[bytes, ...]:
        """A request's digest as it may lie in a store; first as it is written now."""
        bare = b":" + fingerprint
        if self._seal is None:
            return (bare,)
        # The bare one last: what was claimed before there was a key.
        return (*self._seal.digests(fingerprint), bare)

    def pack(self, data: bytes, recording: str, place: bytes) -> bytes:
        """A piece of this recording, which is one only at its own place in it."""
        form = 0
        if len(data) > COMPRESSED_ABOVE_BYTES:
            form, data = _DEFLATED, zlib.compress(data, _LEVEL)
        if self._seal is not None:
            form |= _SEALED
            data = self._seal.close(data, recording, place)
        return bytes((form,)) + data

    def unpack(self, packed: bytes, recording: str, place: bytes) -> bytes:
        """What was packed; ValueError if these bytes are no piece of that place."""
        if not packed or packed[0] > _DEFLATED | _SEALED:
            raise ValueError("a piece of a form that is not known here")
        form, data = packed[0], packed[1:]
        if form & _SEALED:
            if self._seal is None:
                raise ValueError("a sealed piece, and no key to open it")
            data = self._seal.open(data, recording, place)
        if form & _DEFLATED:
            try:
                data = zlib.decompress(data)
            except zlib.error as error:
                raise ValueError("a piece that cannot be decompressed") from error
        return data

    def pack_head(self, head: AnswerHead, recording: str) -> bytes:
        return self.pack(_encode_head(head), recording, b"head")

    def unpack_head(self, packed: bytes, recording: str) -> AnswerHead:
        """The head; ValueError (of which msgspec's are) if these bytes are none."""
        return _decode_head(self.unpack(packed, recording, b"head"))
