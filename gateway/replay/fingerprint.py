"""What a request asks for: whether two ask for the same, and for one answer only."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder(order="sorted").encode


class Asked(msgspec.Struct, frozen=True):
    """A request, as far as its answer depends on it."""

    # 32 bytes that are equal for equal requests.
    fingerprint: bytes
    # Whether every run of it is meant to give the same answer.
    is_deterministic: bool


def asked_of(route: str, model: str, body: bytes) -> Asked:
    """
    The digest of what was parsed.

    The order of an object's keys and white space do not matter; the route and the model
    do, which may stand in the path alone.
    """
    parsed: Any = None
    try:
        parsed = _decode(body)
        canonical = _encode(parsed)
    except (ValueError, RecursionError):
        # A number that is not held here and was passed on unread: as it was written.
        canonical = body
    digest = hashlib.sha256()
    for part in (route.encode(), model.encode(), canonical):
        digest.update(b"%d:%b" % (len(part), part))
    return Asked(digest.digest(), _is_deterministic(parsed))


def _is_deterministic(parsed: Any) -> bool:
    if not isinstance(parsed, dict):
        return False
    temperature, seed = parsed.get("temperature"), parsed.get("seed")
    # To Python, a boolean is an integer.
    is_cold = temperature == 0 and temperature is not False
    return is_cold or (isinstance(seed, int) and not isinstance(seed, bool))
