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
        """Of several secrets the first writes, and all read."""
        secrets = () if secret is None else secret.split()
        self._keys = [each.reveal().encode() for each in secrets]
        self._use = f"llmtune-gateway {use}\0".encode()

    @property
    def has_key(self) -> bool:
        return bool(self._keys)

    def write(self, said: bytes) -> str:
        """What was said, and that we said it; may stand in any part of a URL."""
        # Without a key it is a token that nobody takes, here neither.
        key = self._keys[0] if self._keys else b""
        signed = self._mac(key, said) + said
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def read(self, token: str) -> bytes | None:
        """What a token says; None if it is not one of ours."""
        if len(token) > MAX_TOKEN_CHARS:
            return None
        try:
            signed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except ValueError:
            return None
        mac, said = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
        is_ours = False
        for key in self._keys:
            is_ours |= hmac.compare_digest(mac, self._mac(key, said))
        return said if is_ours else None

    def _mac(self, key: bytes, said: bytes) -> bytes:
        return hmac.digest(key, self._use + said, hashlib.sha256)[:_MAC_BYTES]
