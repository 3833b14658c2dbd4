"""
What becomes of a key that is asked for: the states, and nothing else.

    (nobody) -> running -> answered -> (forgotten)
                   |
                   +-> dead, when its lease ends: the next one to ask runs it

replay_claim.lua decides the same in Redis; one suite holds both to it.
"""

from __future__ import annotations

from policies.replay.port import (
    Claim,
    Conflict,
    First,
    InFlight,
    ReplayKey,
    Stored,
)


class Record:
    """A key that is taken: by an owner that runs, or by an answer."""

    __slots__ = (
        "dead",
        "fingerprint",
        "followed_until_ms",
        "forgotten_ms",
        "is_withdrawn",
        "recording",
        "until_ms",
    )

    def __init__(self, fingerprint: bytes, recording: str) -> None:
        self.fingerprint = fingerprint
        # The name of who runs it, or ran it.
        self.recording = recording
        # When the claim ends; None once it is answered.
        self.until_ms: int | None = None
        self.forgotten_ms = 0
        self.dead: tuple[str, ...] = ()
        self.followed_until_ms = 0
        self.is_withdrawn = False

    def is_held_by(self, owner: str) -> bool:
        return self.until_ms is not None and self.recording == owner


def decide(
    record: Record | None, key: ReplayKey, owner: str, now_ms: int, *, replaces: bool
) -> Claim:
    """What a claim is answered; after `First` the record is the owner's."""
    if record is None or record.forgotten_ms <= now_ms:
        return First()
    is_same = record.fingerprint == key.fingerprint
    if record.until_ms is not None and record.until_ms <= now_ms:
        return First((*record.dead, record.recording) if is_same else ())
    if not is_same:
        return Conflict()
    if record.until_ms is None:
        return First() if replaces else Stored(record.recording)
    if record.recording == owner:
        return First(record.dead)
    return InFlight(record.recording, is_joinable=not record.is_withdrawn)
