"""A batch as it is kept between two looks at it, and as OpenAI shows it."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.background.caller import Caller

KIND: Final = "batch"

Status: TypeAlias = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED: Final = frozenset({"failed", "completed", "expired", "cancelled"})
Endpoint: TypeAlias = Literal["/v1/chat/completions", "/v1/completions"]
# A batch's chunk is sent as one, or its lines go one by one.
Way: TypeAlias = Literal["together", "singly"]


class LineError(msgspec.Struct, frozen=True):
    """What is wrong with the input file, and in which of its lines, from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class OpenChunk(msgspec.Struct):
    """Lines that are under way."""

    number: int
    way: Way
    lines: int
    # What they are expected to take.
    tokens: int
    # How often they were sent, or begun: each has names of its own.
    attempt: int
    # When results that have not come by then are missed; 0 until it was sent.
    missed_ms: int = 0
    # Which replica runs its lines, of those that go singly; empty between two slices.
    owner: str = ""


class Counts(msgspec.Struct):
    """Lines: all, answered, and refused or failed."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Tokens(msgspec.Struct):
    input: int = 0
    output: int = 0


class Moments(msgspec.Struct, omit_defaults=True):
    """When it became what, in epoch seconds."""

    in_progress: int | None = None
    finalizing: int | None = None
    completed: int | None = None
    failed: int | None = None
    expired: int | None = None
    cancelling: int | None = None
    cancelled: int | None = None


class BatchRecord(msgspec.Struct, kw_only=True):
    """All that a replica has to know to go on with it."""

    id: str
    caller: Caller
    endpoint: Endpoint
    input_file_id: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None = None
    output_expires_after_s: int | None = None
    status: Status = "validating"
    errors: tuple[LineError, ...] = ()
    model: str | None = None
    counts: Counts = msgspec.field(default_factory=Counts)
    tokens: Tokens = msgspec.field(default_factory=Tokens)
    moments: Moments = msgspec.field(default_factory=Moments)
    # Cut into so many, of which all before `next_chunk` were begun.
    chunks: int = 0
    next_chunk: int = 0
    open: list[OpenChunk] = msgspec.field(default_factory=list)
    # Named before they are written, and shown when they are.
    output_file_id: str | None = None
    error_file_id: str | None = None
    # Ended by its time with lines that were not run.
    was_expired: bool = False
    # Its end was told, and it holds nothing any more.
    is_told: bool = False

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def ended_at(self) -> int:
        """When it ended, of one that has."""
        ended_at: int = getattr(self.moments, self.status)
        return ended_at

    def become(self, status: Status, now_s: int) -> None:
        """Change its status, and note when; a second time changes nothing."""
        if self.status != status:
            self.status = status
            setattr(self.moments, status, now_s)

    def shown(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        moments = {
            f"{name}_at": getattr(self.moments, name)
            for name in Moments.__struct_fields__
        }
        errors = [msgspec.to_builtins(each) for each in self.errors]
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id if self.has_ended else None,
            "error_file_id": self.error_file_id if self.has_ended else None,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            **moments,
            "request_counts": msgspec.to_builtins(self.counts),
            "usage": {
                "input_tokens": self.tokens.input,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.tokens.output,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.tokens.input + self.tokens.output,
            },
            "metadata": self.metadata,
        }


encode_batch: Final = msgspec.json.Encoder().encode
decode_batch: Final = msgspec.json.Decoder(BatchRecord).decode
