"""
Answers kept for callers that repeat an Idempotency-Key.

Only successes are kept: a refused request was never processed, and may be tried again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec

from gateway.simulator.errors import bad_request
from gateway.simulator.replies import AnyReply, Reply
from gateway.simulator.stats import StatsBoard

# With answers of a few KB this is a few MB; an hour of retries in any sane test.
MAX_KEPT: Final = 1_000
# A few huge answers must not make the thousand a gigabyte.
MAX_KEPT_BYTES: Final = 64 * 2**20


class Kept(msgspec.Struct, frozen=True):
    fingerprint: bytes
    reply: AnyReply
    size: int


class IdempotencyStore:
    """The latest answers by caller, route and key; the oldest make room."""

    def __init__(self, board: StatsBoard) -> None:
        self._board = board
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self._bytes = 0

    def once(
        self, scope: tuple[str, str, str], body: bytes, perform: Callable[[], AnyReply]
    ) -> AnyReply:
        """Perform, unless it was done under this (caller, path, key) before."""
        slot = blake2b("\0".join(scope).encode(), digest_size=16).digest()
        fingerprint = blake2b(body, digest_size=16).digest()
        kept = self._kept.get(slot)
        if kept is None:
            reply = perform()
            self._keep(slot, fingerprint, reply)
            return reply
        if kept.fingerprint != fingerprint:
            raise bad_request(
                "This Idempotency-Key was used with another body.",
                code="IDEMPOTENCY_KEY_REUSED",
            )
        self._board.counts.replays += 1
        return kept.reply

    def _keep(self, slot: bytes, fingerprint: bytes, reply: AnyReply) -> None:
        size = len(reply.body) if isinstance(reply, Reply) else reply.size_bytes
        self._kept[slot] = Kept(fingerprint, reply, size)
        self._bytes += size
        while len(self._kept) > MAX_KEPT or self._bytes > MAX_KEPT_BYTES:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.size
