"""
Answers encrypted at rest: AES-256-GCM by `cryptography`, with keys that rotate.

The first key closes, every key opens. Each recording has a key of its own, derived from
the operator's and the recording's name, so that random nonces never come near their
bound. What is sealed for one place in one recording opens nowhere else.

Imported only where there is a key: `cryptography` is an extra.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES: Final = 32
MAX_KEYS: Final = 8

_KEY_FORM: Final = re.compile(r"([A-Za-z0-9_-]{1,32}):([A-Za-z0-9+/_-]{43}=?)")
# Either alphabet is taken.
_TO_STANDARD: Final = str.maketrans("-_", "+/")
_ALLOWED: Final = (
    f"up to {MAX_KEYS} of id:key separated by commas, each id once, each key"
    f" {KEY_BYTES} bytes in base64"
)
_NONCE_BYTES: Final = 12
# Recordings that are written or read at once, about.
_DERIVED_AT_ONCE: Final = 2048


class SealingKeysProblem(ValueError):
    """The text is no list of keys; the message never shows it."""


class Seal:
    """Closes with one key, opens with any it was given."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        """Keys by their id; the first one closes."""
        self._keys = keys
        self._current = next(iter(keys))
        self._digest_keys = {
            key_id: _derived(key, b"", b"fingerprint") for key_id, key in keys.items()
        }
        self._cipher = lru_cache(_DERIVED_AT_ONCE)(self._cipher_of)

    def _cipher_of(self, key_id: str, recording: str) -> AESGCM:
        return AESGCM(_derived(self._keys[key_id], recording.encode(), b"answer"))

    def close(self, data: bytes, recording: str, place: bytes) -> bytes:
        key_id, nonce = self._current, os.urandom(_NONCE_BYTES)
        sealed = self._cipher(key_id, recording).encrypt(nonce, data, place)
        name = key_id.encode()
        return bytes((len(name),)) + name + nonce + sealed

    def open(self, data: bytes, recording: str, place: bytes) -> bytes:
        """What was closed; ValueError if it was changed, or its key is gone."""
        at = 1 + (data[0] if data else 0)
        key_id = data[1:at].decode("ascii", "replace")
        if key_id not in self._keys:
            raise ValueError("a piece that was sealed with a key that is not here")
        nonce, sealed = data[at : at + _NONCE_BYTES], data[at + _NONCE_BYTES :]
        try:
            return self._cipher(key_id, recording).decrypt(nonce, sealed, place)
        except (InvalidTag, ValueError) as error:
            raise ValueError("a sealed piece that was changed") from error

    def digests(self, fingerprint: bytes) -> tuple[bytes, ...]:
        """
        What a request's digest becomes: nobody without a key can guess prompts by it.

        One for each key, with its id before it, the current one's first.
        """
        return tuple(
            b"%b:%b" % (key_id.encode(), hmac.digest(key, fingerprint, "sha256"))
            for key_id, key in self._digest_keys.items()
        )


def parse_sealing_keys(text: str) -> Seal:
    """A seal from `id:key,id:key`; SealingKeysProblem if the text is none."""
    keys: dict[str, bytes] = {}
    for part in text.split(","):
        form = _KEY_FORM.fullmatch(part.strip())
        if form is None or form[1] in keys or len(keys) == MAX_KEYS:
            raise SealingKeysProblem(_ALLOWED)
        standard = form[2].rstrip("=").translate(_TO_STANDARD) + "="
        try:
            keys[form[1]] = base64.b64decode(standard, validate=True)
        except binascii.Error:
            raise SealingKeysProblem(_ALLOWED) from None
    return Seal(keys)


def _derived(secret: bytes, salt: bytes, purpose: bytes) -> bytes:
    info = b"llmtune-gateway replay " + purpose
    hkdf = HKDF(SHA256(), length=KEY_BYTES, salt=salt or None, info=info)
    return hkdf.derive(secret)
