"""
Tickets: whose results come to a webhook's URL, in a form that nobody can forge.

LLMTune's oldest webhooks are not signed; the URL itself is then what proves that the
sender was asked, and for which chunk.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gateway.background.tokens import TokenSigner
from gateway.secret import Secret

PARAMETER: Final = "job"
PATH: Final = "/webhooks/llmtune"


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
        self._signer = TokenSigner(secret, "ticket")

    @property
    def is_open(self) -> bool:
        """Whether webhooks can reach this gateway at all."""
        return self._public_url is not None and self._signer.has_key

    def url_of(self, ticket: Ticket) -> str:
        """Where LLMTune posts the results of a chunk."""
        assert self._public_url is not None  # noqa: S101 - as `is_open` says
        token = self._signer.write(_encode(ticket))
        return f"{self._public_url.rstrip('/')}{PATH}?{PARAMETER}={token}"

    def read(self, text: str) -> Ticket | None:
        """The ticket of a URL's parameter; None if it is not one of ours."""
        said = self._signer.read(text)
        return None if said is None else _decode(said)
