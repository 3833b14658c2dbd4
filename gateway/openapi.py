"""
The API's description, `/openapi.json`: request schemas from the types that are decoded.

Written here rather than by the framework, because the routes are bare ASGI handlers and
their bodies are decoded by msgspec, which also writes the schemas.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import msgspec

from gateway import __version__
from gateway.fine_tuning.request import TuneRequest
from gateway.limit_report import LimitsReport, PreviewReport
from gateway.schemas.llmtune import NativeBatch, NativeFineTune, NativeRequest
from gateway.schemas.openai import ChatRequest, CompletionRequest

REF: Final = "#/components/schemas/{name}"

_TYPES: Final = (
    ChatRequest,
    CompletionRequest,
    NativeRequest,
    NativeBatch,
    NativeFineTune,
    TuneRequest,
    LimitsReport,
    PreviewReport,
)

_ERRORS: Final = {
    "400": "The request is not what the route takes; `param` names the place.",
    "401": "No API key, or one that opens nothing.",
    "402": "The LLMTune balance is used up.",
    "404": "The model or the job does not exist, or not for this key.",
    "408": "The request did not arrive in time.",
    "409": "The request with this `Idempotency-Key` runs, and cannot be joined.",
    "413": "The body is too large.",
    "422": "The `Idempotency-Key` was used for another request.",
    "429": "A limit of the plan, or of the upstream: `details.whose` says which.",
    "431": "The headers are too large.",
    "502": "The upstream failed.",
    "503": "The upstream is overloaded, this replica is full or shutting down, or the"
    " store of keys and limits is away.",
    "504": "The upstream was too slow.",
}

_IDEMPOTENCY_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Requests with one key are run once, and all get that answer.",
    # Also as a quoted string, which may hold spaces and quotes.
    "schema": {"type": "string", "pattern": "^[!#-~]{1,255}$"},
}


_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_CURSOR: Final = [
    {"name": "after", "in": "query", "schema": {"type": "string"}},
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": 100},
    },
]
# What can be wrong with a request that has a body.
_REFUSED: Final = ("400", "404", "408", "413", "431")


@cache
def openapi_document() -> bytes:
    """The OpenAPI 3.1 document, as JSON."""
    schemas, components = msgspec.json.schema_components(_TYPES, ref_template=REF)
    # The schemas come back in the order of the types they were made from.
    by_type: dict[Any, Any] = dict(zip(_TYPES, schemas, strict=True))
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "LLMTune gateway",
            "version": __version__,
            "description": "OpenAI's API in front of LLMTune, under a plan's limits.",
        },
        "paths": _paths(by_type),
        "components": {
            "schemas": {**components, **_SCHEMAS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }
    return msgspec.json.encode(document)


def _paths(schema_of: dict[Any, Any]) -> dict[str, Any]:
    model_id = {
        "name": "model",
        "in": "path",
        "required": True,
        "description": "May contain slashes, raw or as %2F.",
        "schema": {"type": "string", "minLength": 1},
    }
    chat = _completion("Create a chat completion", schema_of[ChatRequest])
    text = _completion("Create a text completion", schema_of[CompletionRequest])
    native = schema_of[NativeRequest]
    return {
        "/v1/chat/completions": {"post": chat},
        "/v1/completions": {"post": text},
        "/v1/models/{model}/inference": {
            "parameters": [model_id],
            "post": _completion("LLMTune's own inference", native),
        },
        "/v1/playground/inference": {
            "post": _completion("LLMTune's playground inference", native)
        },
        "/v1/batch/inference": {
            "post": _job("LLMTune's own batch", schema_of[NativeBatch])
        },
        "/v1/fine-tune": {
            "post": _job("LLMTune's own fine-tune", schema_of[NativeFineTune])
        },
        "/v1/fine-tune/{id}": {
            "parameters": [_ID],
            "get": _read(
                "How a fine-tune of this workspace stands",
                {"type": "object"},
                *("402", "404", "429", "502", "504"),
            ),
        },
        **_fine_tuning(schema_of[TuneRequest]),
        "/v1/models": {
            "get": _read("List the models this key may use", _ref("ModelList"))
        },
        "/v1/models/{model}": {
            "parameters": [model_id],
            "get": _read("One model", _ref("Model"), "400", "404"),
        },
        "/v1/limits": {
            "get": _read("Where this key's limits stand", schema_of[LimitsReport])
        },
        "/v1/limits/preview": {
            "post": _preview(schema_of[ChatRequest], schema_of[PreviewReport])
        },
        "/livez": {"get": _open("Whether the process is alive", "200")},
        "/readyz": {"get": _open("Whether it takes requests", "200", "503")},
    }


def _completion(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    json_answer = {"schema": {"type": "object"}}
    return {
        "summary": summary,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": _body(schema),
        "responses": {
            "200": {
                "description": "The answer; with `stream: true`, server-sent events.",
                "content": {
                    "application/json": json_answer,
                    # OpenAPI 3.1 has no words for a stream; a schema here would be
                    # read as one of each event.
                    "text/event-stream": {},
                },
            },
            **_errors(*_ERRORS),
        },
    }


def _job(summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A POST that is answered whole, as LLMTune answers it."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "summary": summary,
        "parameters": [_IDEMPOTENCY_KEY],
        "requestBody": _body(schema),
        "responses": {
            "200": {"description": "It was created.", "content": content},
            **_errors(*_ERRORS),
        },
    }


def _fine_tuning(request: dict[str, Any]) -> dict[str, Any]:
    jobs, job = "/v1/fine_tuning/jobs", {"type": "object"}
    create = _read("Create a fine-tuning job", job, *_REFUSED, "429")
    return {
        jobs: {
            "get": {
                **_read("List fine-tuning jobs", job, "400"),
                "parameters": _CURSOR,
            },
            "post": {**create, "requestBody": _body(request)},
        },
        f"{jobs}/{{id}}": {
            "parameters": [_ID],
            "get": _read("One fine-tuning job", job, "404"),
        },
        f"{jobs}/{{id}}/cancel": {
            "parameters": [_ID],
            "post": _read("Follow a fine-tuning job no more", job, "404"),
        },
        f"{jobs}/{{id}}/events": {
            "parameters": [_ID],
            "get": {
                **_read("A fine-tuning job's log", job, "400", "404"),
                "parameters": _CURSOR,
            },
        },
        f"{jobs}/{{id}}/checkpoints": {
            "parameters": [_ID],
            "get": _read("Its checkpoints: LLMTune tells none", job, "404"),
        },
    }


def _read(summary: str, answer: dict[str, Any], *errors: str) -> dict[str, Any]:
    content = {"application/json": {"schema": answer}}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "Found.", "content": content},
            **_errors("401", "503", *errors),
        },
    }


def _preview(request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return {
        **_read("What would become of a chat completion", answer, *_REFUSED),
        "requestBody": _body(request),
    }


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _open(summary: str, *statuses: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    answers = {s: {"description": "Its state.", "content": content} for s in statuses}
    return {"summary": summary, "security": [], "responses": answers}


def _errors(*statuses: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {s: {"description": _ERRORS[s], "content": content} for s in statuses}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": REF.format(name=name)}


_NULLABLE: Final = {"type": ["string", "null"]}

_SCHEMAS: Final = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": _NULLABLE,
                    "code": _NULLABLE,
                    "details": {"type": "object"},
                },
            }
        },
    },
    "Model": {
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
        },
    },
    "ModelList": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": _ref("Model")},
        },
    },
}
