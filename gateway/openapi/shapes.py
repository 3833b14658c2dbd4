"""Schemas of the answers: what OpenAI's clients find in them, and may rely on."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, get_args

from gateway.batches.record import Endpoint
from gateway.batches.record import Status as BatchStatus
from gateway.files.service import Purpose
from gateway.fine_tuning.record import Level
from gateway.fine_tuning.record import Status as TuneStatus

Schema: TypeAlias = dict[str, Any]

REF: Final = "#/components/schemas/{name}"


def ref(name: str) -> Schema:
    """A schema by its name in the document."""
    return {"$ref": REF.format(name=name)}


def words(literal: Any) -> Schema:
    """One of the words of a `Literal`."""
    return {"type": "string", "enum": sorted(get_args(literal))}


def _object(**properties: Schema) -> Schema:
    """An object that has all of these."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
    }


def _list(of: str) -> Schema:
    return _object(
        object={"const": "list"},
        data={"type": "array", "items": ref(of)},
        first_id=MAYBE_TEXT,
        last_id=MAYBE_TEXT,
        has_more={"type": "boolean"},
    )


TEXT: Final[Schema] = {"type": "string"}
MAYBE_TEXT: Final[Schema] = {"type": ["string", "null"]}
# A count, or a moment in epoch seconds.
NUMBER: Final[Schema] = {"type": "integer", "minimum": 0}
MAYBE_NUMBER: Final[Schema] = {"type": ["integer", "null"], "minimum": 0}
# What the caller said of it.
_METADATA: Final[Schema] = {
    "type": ["object", "null"],
    "additionalProperties": TEXT,
}

_BATCH: Final = _object(
    id=TEXT,
    object={"const": "batch"},
    endpoint=words(Endpoint),
    model=MAYBE_TEXT,
    errors={"type": ["object", "null"]},
    input_file_id=TEXT,
    completion_window={"const": "24h"},
    status=words(BatchStatus),
    output_file_id=MAYBE_TEXT,
    error_file_id=MAYBE_TEXT,
    created_at=NUMBER,
    expires_at=NUMBER,
    in_progress_at=MAYBE_NUMBER,
    finalizing_at=MAYBE_NUMBER,
    completed_at=MAYBE_NUMBER,
    failed_at=MAYBE_NUMBER,
    expired_at=MAYBE_NUMBER,
    cancelling_at=MAYBE_NUMBER,
    cancelled_at=MAYBE_NUMBER,
    request_counts=_object(total=NUMBER, completed=NUMBER, failed=NUMBER),
    usage=_object(
        input_tokens=NUMBER,
        input_tokens_details=_object(cached_tokens=NUMBER),
        output_tokens=NUMBER,
        output_tokens_details=_object(reasoning_tokens=NUMBER),
        total_tokens=NUMBER,
    ),
    metadata=_METADATA,
)
_JOB: Final = _object(
    id=TEXT,
    object={"const": "fine_tuning.job"},
    created_at=NUMBER,
    finished_at=MAYBE_NUMBER,
    estimated_finish={"type": "null"},
    model=TEXT,
    fine_tuned_model=MAYBE_TEXT,
    organization_id=TEXT,
    status=words(TuneStatus),
    hyperparameters={"type": "object"},
    method={"type": "object"},
    training_file=TEXT,
    validation_file={"type": "null"},
    result_files={"type": "array", "items": TEXT},
    trained_tokens=MAYBE_NUMBER,
    error={"type": ["object", "null"]},
    seed=NUMBER,
    integrations={"type": "array"},
    user_provided_suffix=MAYBE_TEXT,
    metadata=_METADATA,
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Error": _object(
        error={
            **_object(message=TEXT, type=TEXT, param=MAYBE_TEXT, code=MAYBE_TEXT),
            # Of some codes, which docs/translation.md has.
            "additionalProperties": True,
        }
    ),
    "Model": _object(
        id=TEXT,
        object={"const": "model"},
        created={"type": "integer"},
        owned_by=TEXT,
    ),
    "ModelList": _object(
        object={"const": "list"}, data={"type": "array", "items": ref("Model")}
    ),
    "File": _object(
        id=TEXT,
        object={"const": "file"},
        bytes=NUMBER,
        created_at=NUMBER,
        expires_at=MAYBE_NUMBER,
        filename=TEXT,
        purpose=words(Purpose),
        status={"const": "processed"},
    ),
    "FileList": _list("File"),
    "FileDeleted": _object(id=TEXT, object={"const": "file"}, deleted={"const": True}),
    "Batch": _BATCH,
    "BatchList": _list("Batch"),
    "FineTuningJob": _JOB,
    "FineTuningJobList": _list("FineTuningJob"),
    "FineTuningJobEvent": _object(
        id=TEXT,
        object={"const": "fine_tuning.job.event"},
        created_at=NUMBER,
        level=words(Level),
        message=TEXT,
        type={"enum": ["message", "metrics"]},
        data={"type": "object"},
    ),
    "FineTuningJobEventList": _list("FineTuningJobEvent"),
    "FineTuningJobCheckpointList": _object(
        object={"const": "list"},
        data={"type": "array", "maxItems": 0},
        has_more={"const": False},
    ),
}
