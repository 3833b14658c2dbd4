"""
The port of replays: what every store promises, and the values that cross it.

A key belongs to one workspace. Whoever claims it first runs the request and holds the
key by a lease; its answer is kept for as long as its plan says, and then forgotten. A
claim repeated by its owner is the same claim: its reply may have been lost.

A lease that is not renewed ends: its owner has died, and the next claim is the first.
Nothing was kept then, so a request may run twice, and an answer is never replayed that
was not kept whole.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import msgspec


class KeptAnswer(msgspec.Struct, frozen=True):
    """An answer as it was sent, without what belongs to the one who was sent it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    # Of the request that it was the answer to.
    request_id: str


class ReplayKey(msgspec.Struct, frozen=True):
    """A workspace's key, and what was asked under it."""

    workspace: str
    key: str
    # Equal for requests that ask for the same.
    fingerprint: bytes


class First(msgspec.Struct, frozen=True):
    """Nobody has asked before, or what was asked is forgotten: it is to be run."""


class Stored(msgspec.Struct, frozen=True):
    """It was answered, like this."""

    answer: KeptAnswer


class InFlight(msgspec.Struct, frozen=True):
    """It is being run by somebody else."""


class Conflict(msgspec.Struct, frozen=True):
    """Something else was asked under this key."""


Claim: TypeAlias = First | Stored | InFlight | Conflict
ReplayOutcome: TypeAlias = Literal["first", "stored", "in_flight", "conflict"]


class ReplayUnavailable(Exception):
    """The store cannot say; `is_ambiguous` that it may have done what it was asked."""

    def __init__(self, *, is_ambiguous: bool = False) -> None:
        super().__init__("the store of replays cannot say")
        self.is_ambiguous = is_ambiguous


class ReplayStore(Protocol):
    """Keys that are claimed, and answers that are kept."""

    @property
    def lease_ms(self) -> int:
        """How long a claim lives without being renewed."""
        ...

    async def claim(self, key: ReplayKey, owner: str) -> Claim:
        """Take the key if it is free, in one step; ReplayUnavailable."""
        ...

    async def renew(self, key: ReplayKey, owner: str) -> bool:
        """Keep a claim alive; False if it is this owner's no more."""
        ...

    async def keep(
        self, key: ReplayKey, owner: str, answer: KeptAnswer, ttl_ms: int
    ) -> bool:
        """Keep the answer in place of the claim; False if that was lost."""
        ...

    async def release(self, key: ReplayKey, owner: str) -> None:
        """Give the claim back: nothing is kept, and the next one is the first."""
        ...
