"""
Tickets: whose results come to a webhook's URL, in a form that nobody can forge.

LLMTune's oldest webhooks are not signed; the URL itself is then what proves that the
sender was asked, and for which chunk.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

import msgspec

from gateway.secret import Secret

PARAMETER: Final = "job"
PATH: Final = "/webhooks/llmtune"
_MAC_BYTES: Final = 16
MAX_TICKET_CHARS: Final = 512


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """The chunk of a batch, and how many lines it has."""

    workspace: str
    batch_id: str
    number: int
    lines: int


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Ticket).decode


class TicketOffice:
    """Writes tickets into URLs, and reads those of its own."""

    def __init__(self, public_url: str | None, secret: Secret | None) -> None:
        self._public_url = public_url
        self._key = b"" if secret is None else secret.reveal().encode()

    @property
    def is_open(self) -> bool:
        """Whether webhooks can reach this gateway at all."""
        return self._public_url is not None and bool(self._key)

    def url_of(self, ticket: Ticket) -> str:
        """Where LLMTune posts the results of a chunk."""
        assert self._public_url is not None  # noqa: S101 - as `is_open` says
        raw = _encode(ticket)
        text = base64.urlsafe_b64encode(self._mac(raw) + raw).decode().rstrip("=")
        return f"{self._public_url.rstrip('/')}{PATH}?{PARAMETER}={text}"

    def read(self, text: str) -> Ticket | None:
        """The ticket of a URL's parameter; None if it is not one of ours."""
        if not self._key or len(text) > MAX_TICKET_CHARS:
            return None
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        except ValueError:
            return None
        mac, told = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(told)):
            return None
        return _decode(told)

    def _mac(self, raw: bytes) -> bytes:
        # Another use of the secret than a signature's, so no signature is a ticket.
        told = b"llmtune-gateway ticket\0" + raw
        return hmac.digest(self._key, told, hashlib.sha256)[:_MAC_BYTES]
