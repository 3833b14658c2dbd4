"""
The port of replays: what every store promises, and the values that cross it.

A key belongs to one workspace. Whoever claims it first runs the request and holds the
key by a lease; the answer is recorded under that owner's name while it flows, so that
others can follow it, and kept for as long as its plan says once it is complete. A claim
repeated by its owner is the same claim: its reply may have been lost.

A lease that is not renewed ends: its owner has died, and the next claim is the first.
What it had recorded is forgotten then: an answer is read under the name of its owner,
so that no reader ever gets the beginning of one run and the end of another.
"""

from __future__ import annotations

from typing import Final, Literal, Protocol, TypeAlias

import msgspec

# How long it is remembered who died over a key. For an hour the ledger lets a charge be
# corrected whose owner was taken for dead; a minute less, for clocks that differ.
DEAD_KNOWN_MS: Final = 3_540_000

# The client's own key; one made of a request that had none, for its retries; or one
# made of a request whose answer any equal request may have.
ReplayScope: TypeAlias = Literal["key", "retry", "cache"]


class ReplayKey(msgspec.Struct, frozen=True):
    """A workspace's key, and what was asked under it."""

    workspace: str
    scope: ReplayScope
    key: str
    # Equal for requests that ask for the same.
    fingerprint: bytes


class AnswerHead(msgspec.Struct, frozen=True):
    """An answer's head, without what belongs to the one who was sent it."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    # Of the request that it is the answer to.
    request_id: str
    # Sent as it came; else in one piece, with its length.
    is_stream: bool


class Part(msgspec.Struct, frozen=True):
    """What an answer has grown by; nothing, to keep its claim alive."""

    # In bytes of the answer's body, from its begin.
    start: int = 0
    data: bytes = b""
    # Once, as soon as it is known.
    head: AnswerHead | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class Bounds(msgspec.Struct, frozen=True):
    """What a plan lets one workspace have kept."""

    ttl_ms: int
    max_answer_bytes: int
    max_workspace_bytes: int


class First(msgspec.Struct, frozen=True):
    """Nobody has asked before, or what was asked is forgotten: it is to be run."""

    # Who has died while running it.
    dead: tuple[str, ...] = ()


class Stored(msgspec.Struct, frozen=True):
    """It was answered, and is to be read under this name."""

    recording: str


class InFlight(msgspec.Struct, frozen=True):
    """It is being run by somebody else, and can be followed under this name."""

    recording: str
    # False where its answer is too large to be recorded.
    is_joinable: bool = True


class Conflict(msgspec.Struct, frozen=True):
    """Something else was asked under this key."""


Claim: TypeAlias = First | Stored | InFlight | Conflict

# in_flight  somebody runs it, and that could not be joined
# alone      run by itself, and not recorded
ReplayOutcome: TypeAlias = Literal[
    "first", "stored", "joined", "in_flight", "conflict", "alone"
]


class Standing(msgspec.Struct, frozen=True):
    """How a claim stands after a part was appended."""

    # False: it is this owner's no more, and nothing was appended.
    is_held: bool
    # Whether somebody else waits for the answer.
    is_followed: bool = False
    # False: the workspace has no room left, and nothing was appended.
    has_room: bool = True


# running   more may come
# complete  this is the end of it
# gone      given up, or its owner died; under another name it may be run again
ReadingState: TypeAlias = Literal["running", "complete", "gone"]


class Reading(msgspec.Struct, frozen=True):
    """What of an answer follows some place in it."""

    state: ReadingState
    head: AnswerHead | None = None
    data: bytes = b""


GONE: Final = Reading("gone")


class ReplayUnavailable(Exception):
    """The store cannot say; `is_ambiguous` that it may have done what it was asked."""

    def __init__(self, *, is_ambiguous: bool = False) -> None:
        super().__init__("the store of replays cannot say")
        self.is_ambiguous = is_ambiguous


class ReplayDamaged(ReplayUnavailable):
    """What is kept cannot be read here, and will not be by asking again."""


class ReplayStore(Protocol):
    """Keys that are claimed, and answers that are kept; all raise ReplayUnavailable."""

    @property
    def lease_ms(self) -> int:
        """How long a claim lives without being renewed."""
        ...

    async def claim(
        self, key: ReplayKey, owner: str, *, replaces: bool = False
    ) -> Claim:
        """
        Take the key if it is free, in one step.

        `replaces` takes it also where there is an answer, which is forgotten.
        """
        ...

    async def append(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        """Record what came, and keep the claim alive. A second run changes nothing."""
        ...

    async def keep(
        self, key: ReplayKey, owner: str, part: Part, bounds: Bounds
    ) -> Standing:
        """
        As `append` for the last of it: from now on it is kept, and nobody's claim.

        A whole answer is also kept where the claim was lost and nobody took the key.
        """
        ...

    async def withdraw(self, key: ReplayKey, owner: str) -> None:
        """
        Have nobody join it any more; the claim goes on.

        What was recorded can still be read, and then it is gone.
        """
        ...

    async def release(self, key: ReplayKey, owner: str) -> None:
        """Give the claim back: nothing is kept, and the next one is the first."""
        ...

    async def read(
        self, key: ReplayKey, recording: str, offset: int, *, follows: bool = True
    ) -> Reading:
        """
        What was recorded from this byte on, or a part of it.

        Whoever runs it hears for the length of a lease that somebody `follows`.
        """
        ...
