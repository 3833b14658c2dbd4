"""
Tokens: what this gateway wrote into a URL, in a form that nobody can forge.

Each use of the secret has a name of its own, so that what was signed for one is nothing
to another, and no webhook's signature is a token.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

from gateway.secret import Secret

_MAC_BYTES: Final = 16
MAX_TOKEN_CHARS: Final = 512


class TokenSigner:
    """Writes tokens of one use, and reads those of its own."""

    def __init__(self, secret: Secret | None, use: str) -> None:
        self._key = b"" if secret is None else secret.reveal().encode()
        self._use = f"llmtune-gateway {use}\0".encode()

    @property
    def has_key(self) -> bool:
        return bool(self._key)

    def write(self, said: bytes) -> str:
        """What was said, and that we said it; may stand in any part of a URL."""
        signed = self._mac(said) + said
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def read(self, token: str) -> bytes | None:
        """What a token says; None if it is not one of ours."""
        # An empty key signs for everybody.
        if not self._key or len(token) > MAX_TOKEN_CHARS:
            return None
        try:
            signed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        mac, said = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        return said if hmac.compare_digest(mac, self._mac(said)) else None

    def _mac(self, said: bytes) -> bytes:
        return hmac.digest(self._key, self._use + said, hashlib.sha256)[:_MAC_BYTES]
