"""
Signs what we post, as Standard Webhooks 1.0 says, so that any of its libraries verify.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets as randomness
from collections.abc import Sequence
from typing import Final

from gateway.envelope import Header
from gateway.secret import Secret

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with is none
# The specification's: below it a secret can be guessed, above it is no secret of these.
MIN_SECRET_BYTES: Final = 24
MAX_SECRET_BYTES: Final = 64

# Dots divide what is signed: with one in the id, two messages could be signed as one.
_ID_FORM: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


def sign(
    secrets: Sequence[Secret], message_id: str, timestamp_s: int, body: bytes
) -> tuple[Header, ...]:
    """
    The three headers of one attempt; a retry keeps its id and has a new timestamp.

    One signature per secret: during a rotation receivers know the old one or the new.
    """
    if not _ID_FORM.fullmatch(message_id):
        raise ValueError("a message id is 1 to 128 of A-Z a-z 0-9 _ -")
    if not secrets:
        raise ValueError("nothing to sign with")
    signed = b"%b.%d.%b" % (message_id.encode("ascii"), timestamp_s, body)
    signatures = b" ".join(_signature(secret, signed) for secret in secrets)
    return (
        (b"webhook-id", message_id.encode("ascii")),
        (b"webhook-timestamp", b"%d" % timestamp_s),
        (b"webhook-signature", signatures),
    )


def new_secret() -> Secret:
    """A secret to hand to a receiver."""
    key = randomness.token_bytes(32)
    return Secret(SECRET_PREFIX + base64.b64encode(key).decode("ascii"))


def find_secret_problem(text: str) -> str | None:
    """What is wrong with a secret as it is written, or None; quotes none of it."""
    key = _decoded(text) if text.startswith(SECRET_PREFIX) else None
    if key is None or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        return (
            f"must be {SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to"
            f" {MAX_SECRET_BYTES} random bytes"
        )
    return None


def _signature(secret: Secret, signed: bytes) -> bytes:
    text = secret.reveal()
    key = _decoded(text)
    if key is None or find_secret_problem(text) is not None:
        raise ValueError("a secret is not of the form whsec_<base64>")
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return b"v1," + base64.b64encode(digest)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
