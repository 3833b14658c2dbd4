"""Whether two requests ask for the same: a digest of what was parsed."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def fingerprint_of(route: str, model: str, body: bytes) -> bytes:
    """
    32 bytes that are equal for equal requests.

    The order of an object's keys and white space do not matter; the route and the model
    do, which may stand in the path alone.
    """
    try:
        canonical = _encode(_decode(body))
    except (ValueError, RecursionError):
        # A number that is not held here and was passed on unread: as it was written.
        canonical = body
    digest = hashlib.sha256()
    for part in (route.encode(), model.encode(), canonical):
        digest.update(b"%d:%b" % (len(part), part))
    return digest.digest()
