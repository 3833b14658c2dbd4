"""The value of an `Idempotency-Key` header."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from gateway.errors import InvalidRequest

IDEMPOTENCY_KEY: Final = b"idempotency-key"

MAX_CHARS: Final = 255

# RFC 8941, 3.3.3: printable ASCII, of which a quote and a backslash are escaped.
_QUOTED: Final = re.compile(rb'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_ESCAPE: Final = re.compile(rb'\\(["\\])')
# As clients send it that never heard of structured fields.
_BARE: Final = re.compile(rb"[\x20-\x7e]*")


def key_in(headers: Mapping[bytes, bytes]) -> str | None:
    """The key of a request, if it has one; InvalidRequest if that is none."""
    value = headers.get(IDEMPOTENCY_KEY)
    return None if value is None else read_key(value)


def read_key(value: bytes) -> str:
    """The key, bare or quoted; InvalidRequest if it is none."""
    quoted = _QUOTED.fullmatch(value)
    if quoted is not None:
        key = _ESCAPE.sub(rb"\1", quoted[1])
    elif value.startswith(b'"') or not _BARE.fullmatch(value):
        raise _not_a_key()
    else:
        key = value
    if not 1 <= len(key) <= MAX_CHARS:
        raise _not_a_key()
    return key.decode("ascii")


def upstream_key(value: bytes, workspace: str, *, is_callers_key: bool) -> bytes:
    """
    What goes upstream of a key, so that LLMTune, too, does its request once.

    Under the gateway's key all workspaces are one to LLMTune: two that chose the same
    key would be given each other's jobs.
    """
    key = read_key(value)
    if is_callers_key:
        return key.encode("ascii")
    return hashlib.sha256(f"{workspace}\0{key}".encode()).hexdigest().encode()


def _not_a_key() -> InvalidRequest:
    return InvalidRequest(
        f"The Idempotency-Key header must have 1 to {MAX_CHARS} printable characters,"
        " bare or as a quoted string.",
        param="Idempotency-Key",
    )
