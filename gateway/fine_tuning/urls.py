"""
URLs that LLMTune is given: where a training file is read, and where events are posted.

LLMTune has no key of ours. What lets it in is that we signed the URL.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs

import msgspec

from gateway.background.tokens import TokenSigner
from gateway.batches.tickets import PATH as WEBHOOKS
from gateway.secret import Secret

PARAMETER: Final = "tune"
HANDOVER: Final = "/v1/files/handover"
# LLMTune reads the file when the job's turn comes; a queue may be hours long.
HANDED_OVER_S: Final = 86_400
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._-]+")


class TuneTicket(msgspec.Struct, frozen=True, array_like=True):
    """Of which job the events are that come to a URL."""

    workspace: str
    job_id: str


class Handover(msgspec.Struct, frozen=True, array_like=True):
    """A file that may be read without a key, and until when."""

    workspace: str
    file_id: str
    expires_s: int


_encode: Final = msgspec.json.Encoder().encode
_decode_ticket: Final = msgspec.json.Decoder(TuneTicket).decode
_decode_handover: Final = msgspec.json.Decoder(Handover).decode


class TuneUrls:
    """Writes such URLs, and reads those of its own."""

    def __init__(
        self,
        public_url: str | None,
        secret: Secret | None,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._base = None if public_url is None else public_url.rstrip("/")
        self._tickets = TokenSigner(secret, "tune")
        self._handovers = TokenSigner(secret, "handover")
        self._now_s = now_s

    @property
    def is_open(self) -> bool:
        """Whether LLMTune can reach this gateway at all."""
        return self._base is not None and self._tickets.has_key

    def webhook(self, ticket: TuneTicket) -> str:
        """Where LLMTune posts what becomes of a job."""
        token = self._tickets.write(_encode(ticket))
        return f"{self._base}{WEBHOOKS}?{PARAMETER}={token}"

    def ticket_in(self, query: str) -> TuneTicket | None:
        """The ticket of a webhook's query; None if it has none of ours."""
        try:
            texts = parse_qs(query, max_num_fields=8).get(PARAMETER, [])
        except ValueError:
            return None
        said = self._tickets.read(texts[0]) if len(texts) == 1 else None
        return None if said is None else _decode_ticket(said)

    def file(self, handover: Handover, filename: str) -> str:
        """Where a file can be read; its name says what form it is of."""
        token = self._handovers.write(_encode(handover))
        name = _NOT_IN_NAMES.sub("-", filename).strip(".-")[-64:] or "training.jsonl"
        return f"{self._base}{HANDOVER}/{token}/{name}"

    def handover_of(self, token: str) -> Handover | None:
        """Which file it lets in to; None if it is forged, or has expired."""
        said = self._handovers.read(token)
        if said is None:
            return None
        handover = _decode_handover(said)
        return handover if self._now_s() < handover.expires_s else None
