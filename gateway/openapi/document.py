"""
The document: every route that a caller has, with schemas from the types that decode.

Written here rather than by the framework, because the routes are bare ASGI handlers and
their bodies are decoded by msgspec, which also writes the schemas.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.batches.service import BatchRequest
from gateway.files.service import UPLOADED
from gateway.fine_tuning.request import TuneRequest
from gateway.limit_report import LimitsReport, PreviewReport
from gateway.openapi.operations import (
    ID,
    REFUSED,
    body,
    completion,
    create,
    cursor,
    download,
    listed,
    own_job,
    read,
    said,
    unlocked,
)
from gateway.openapi.shapes import REF, SCHEMAS, Schema, ref
from gateway.schemas.llmtune import NativeBatch, NativeFineTune, NativeRequest
from gateway.schemas.openai import ChatRequest, CompletionRequest

_TYPES: Final = (
    ChatRequest,
    CompletionRequest,
    NativeRequest,
    NativeBatch,
    NativeFineTune,
    BatchRequest,
    TuneRequest,
    LimitsReport,
    PreviewReport,
)
_MODEL: Final[Schema] = {
    "name": "model",
    "in": "path",
    "required": True,
    "description": "May contain slashes, raw or as %2F.",
    "schema": {"type": "string", "minLength": 1},
}


@cache
def openapi_document() -> bytes:
    """The OpenAPI 3.1 document, as JSON."""
    schemas, components = msgspec.json.schema_components(_TYPES, ref_template=REF)
    # The schemas come back in the order of the types they were made from.
    by_type: dict[Any, Schema] = dict(zip(_TYPES, schemas, strict=True))
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "LLMTune gateway",
            "version": __version__,
            "description": "OpenAI's API in front of LLMTune, under a plan's limits.",
        },
        "paths": {
            **_completions(by_type),
            **_files(),
            **_batches(by_type[BatchRequest]),
            **_fine_tuning(by_type[TuneRequest]),
            **_own_jobs(by_type),
            **_limits(by_type),
            "/livez": {"get": unlocked("Whether the process is alive", "200")},
            "/readyz": {"get": unlocked("Whether it takes requests", "200", "503")},
        },
        "components": {
            "schemas": {**components, **SCHEMAS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }
    return msgspec.json.encode(document)


def _completions(schema_of: dict[Any, Schema]) -> Schema:
    chat = completion("Create a chat completion", schema_of[ChatRequest])
    text = completion("Create a text completion", schema_of[CompletionRequest])
    native = schema_of[NativeRequest]
    models = read("List the models this key may use", ref("ModelList"))
    return {
        "/v1/chat/completions": {"post": chat},
        "/v1/completions": {"post": text},
        "/v1/models/{model}/inference": {
            "parameters": [_MODEL],
            "post": completion("LLMTune's own inference", native),
        },
        "/v1/playground/inference": {
            "post": completion("LLMTune's playground inference", native)
        },
        "/v1/models": {"get": models},
        "/v1/models/{model}": {
            "parameters": [_MODEL],
            "get": read("One model", ref("Model"), "400", "404"),
        },
    }


def _files() -> Schema:
    form = {
        "type": "object",
        "required": ["purpose", "file"],
        "properties": {
            "purpose": {"type": "string", "enum": sorted(UPLOADED)},
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {
                "type": "integer",
                "minimum": 3600,
                "maximum": 2_592_000,
            },
            "file": {"type": "string", "format": "binary"},
        },
    }
    upload = body(form, "multipart/form-data")
    parameters = [
        *cursor(10_000),
        said("order", {"enum": ["asc", "desc"]}),
        said("purpose", {"type": "string"}),
    ]
    return {
        "/v1/files": {
            "get": listed("List files", ref("FileList"), parameters),
            "post": create("Upload a file", ref("File"), upload),
        },
        "/v1/files/{id}": {
            "parameters": [ID],
            "get": read("One file", ref("File"), "404"),
            "delete": read("Delete a file", ref("FileDeleted"), "404"),
        },
        "/v1/files/{id}/content": {
            "parameters": [ID],
            "get": download("A file's bytes"),
        },
    }


def _batches(request: Schema) -> Schema:
    batches, batch = "/v1/batches", ref("Batch")
    return {
        batches: {
            "get": listed("List batches", ref("BatchList"), cursor(100)),
            "post": create("Create a batch", batch, body(request)),
        },
        f"{batches}/{{id}}": {
            "parameters": [ID],
            "get": read("One batch", batch, "404"),
        },
        f"{batches}/{{id}}/cancel": {
            "parameters": [ID],
            "post": read("Begin no more lines of a batch", batch, "404"),
        },
    }


def _fine_tuning(request: Schema) -> Schema:
    jobs, job = "/v1/fine_tuning/jobs", ref("FineTuningJob")
    events = ref("FineTuningJobEventList")
    checkpoints = ref("FineTuningJobCheckpointList")
    return {
        jobs: {
            "get": listed(
                "List fine-tuning jobs", ref("FineTuningJobList"), cursor(100)
            ),
            "post": create("Create a fine-tuning job", job, body(request)),
        },
        f"{jobs}/{{id}}": {
            "parameters": [ID],
            "get": read("One fine-tuning job", job, "404"),
        },
        f"{jobs}/{{id}}/cancel": {
            "parameters": [ID],
            "post": read("Follow a fine-tuning job no more", job, "404"),
        },
        f"{jobs}/{{id}}/events": {
            "parameters": [ID],
            "get": listed("A fine-tuning job's log", events, cursor(100), "404"),
        },
        f"{jobs}/{{id}}/checkpoints": {
            "parameters": [ID],
            "get": read("Its checkpoints: LLMTune tells none", checkpoints, "404"),
        },
    }


def _own_jobs(schema_of: dict[Any, Schema]) -> Schema:
    return {
        "/v1/batch/inference": {
            "post": own_job("LLMTune's own batch", schema_of[NativeBatch])
        },
        "/v1/fine-tune": {
            "post": own_job("LLMTune's own fine-tune", schema_of[NativeFineTune])
        },
        "/v1/fine-tune/{id}": {
            "parameters": [ID],
            "get": read(
                "How a fine-tune of this workspace stands",
                {"type": "object"},
                *("402", "404", "429", "502", "504"),
            ),
        },
    }


def _limits(schema_of: dict[Any, Schema]) -> Schema:
    preview = read(
        "What would become of a chat completion", schema_of[PreviewReport], *REFUSED
    )
    return {
        "/v1/limits": {
            "get": read("Where this key's limits stand", schema_of[LimitsReport])
        },
        "/v1/limits/preview": {
            "post": {**preview, "requestBody": body(schema_of[ChatRequest])}
        },
    }
