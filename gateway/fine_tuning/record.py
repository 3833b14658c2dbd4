"""A fine-tune as it is kept between two looks at it, and as OpenAI shows it."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.background.caller import Caller
from policies.jobs.port import new_record_id, time_of_id

KIND: Final = "fine_tune"

Status: TypeAlias = Literal[
    "validating_files", "queued", "running", "succeeded", "failed", "cancelled"
]
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})
Level: TypeAlias = Literal["info", "warn", "error"]

# Longer than any training that is still heard of.
LOST_AFTER_S: Final = 30 * 86_400
# Of one job; LLMTune tells no more than a few metrics, and the oldest go first.
MAX_EVENTS: Final = 500


EVENT_PREFIX: Final = "ftevent-"


class JobError(msgspec.Struct, frozen=True):
    """Why it failed."""

    code: str
    message: str
    param: str | None = None


class Event(msgspec.Struct, frozen=True):
    """A line of the job's log."""

    id: str
    created_at: int
    level: Level
    message: str
    metrics: dict[str, float] | None = None

    def shown(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        return {
            "object": "fine_tuning.job.event",
            "id": self.id,
            "created_at": self.created_at,
            "level": self.level,
            "message": self.message,
            "type": "message" if self.metrics is None else "metrics",
            "data": self.metrics or {},
        }


class TuneRecord(msgspec.Struct, kw_only=True):
    """All that a replica has to know to go on with it."""

    id: str
    caller: Caller
    model: str
    training_file: str
    created_at: int
    suffix: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    metadata: dict[str, str] | None = None
    status: Status = "validating_files"
    # Set before it is sent: from then on LLMTune may have it, whoever dies.
    sent_at: int | None = None
    upstream_id: str | None = None
    # The name, as soon as it is told; shown when the model can be asked.
    model_name: str | None = None
    # When it was first known to be trained.
    completed_at: int | None = None
    finished_at: int | None = None
    trained_tokens: int | None = None
    metrics: dict[str, float] = {}
    error: JobError | None = None
    events: list[Event] = []
    # Its end was told.
    is_told: bool = False

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    def log(
        self,
        message: str,
        now_s: float,
        *,
        level: Level = "info",
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Add a line to its log."""
        # Ids sort by their time; of whoever's clock is behind, by their place.
        made_us = int(now_s * 1_000_000)
        if self.events:
            last_us = time_of_id(EVENT_PREFIX, self.events[-1].id)
            made_us = max(made_us, last_us + 1)
        event_id = new_record_id(EVENT_PREFIX, made_us)
        self.events.append(Event(event_id, int(now_s), level, message, metrics))
        del self.events[:-MAX_EVENTS]

    def end(self, status: Status, now_s: float) -> None:
        """It has ended so."""
        self.status, self.finished_at = status, int(now_s)

    def fail(self, error: JobError, now_s: float) -> None:
        """It has ended with this error."""
        self.error = error
        self.log(error.message, now_s, level="error")
        self.end("failed", now_s)

    def shown(self) -> dict[str, Any]:
        """As OpenAI shows it."""
        hyperparameters = {
            "n_epochs": self.epochs or "auto",
            "batch_size": self.batch_size or "auto",
            "learning_rate_multiplier": "auto",
        }
        return {
            "id": self.id,
            "object": "fine_tuning.job",
            "created_at": self.created_at,
            "finished_at": self.finished_at,
            "estimated_finish": None,
            "model": self.model,
            "fine_tuned_model": self.model_name if self.status == "succeeded" else None,
            # There are no organizations here: the workspace is what has jobs.
            "organization_id": self.caller.workspace,
            "status": self.status,
            "hyperparameters": hyperparameters,
            "method": {
                "type": "supervised",
                "supervised": {"hyperparameters": hyperparameters},
            },
            "training_file": self.training_file,
            "validation_file": None,
            "result_files": [],
            "trained_tokens": self.trained_tokens,
            "error": self.error and msgspec.to_builtins(self.error),
            # LLMTune takes none; OpenAI's clients require a number.
            "seed": 0,
            "integrations": [],
            "user_provided_suffix": self.suffix,
            "metadata": self.metadata,
        }


encode_tune: Final = msgspec.json.Encoder().encode
decode_tune: Final = msgspec.json.Decoder(TuneRecord).decode
