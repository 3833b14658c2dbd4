"""An operation's description: its parameters, its body, its answers and errors."""

from __future__ import annotations

from typing import Final

from gateway.openapi.shapes import Schema, ref

ERRORS: Final = {
    "400": "The request is not what the route takes; `param` names the place.",
    "401": "No API key, or one that opens nothing.",
    "402": "The LLMTune balance is used up.",
    "404": "What is named does not exist, or not for this key.",
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
# What can be wrong with a request that has a body.
REFUSED: Final = ("400", "404", "408", "413", "431")

IDEMPOTENCY_KEY: Final[Schema] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Requests with one key are run once, and all get that answer.",
    # Also as a quoted string, which may hold spaces and quotes.
    "schema": {"type": "string", "pattern": "^[!#-~]{1,255}$"},
}
ID: Final[Schema] = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}


def cursor(most: int) -> list[Schema]:
    """Which part of a list is asked for."""
    limit = {"type": "integer", "minimum": 1, "maximum": most}
    return [said("after", {"type": "string"}), said("limit", limit)]


def said(name: str, schema: Schema) -> Schema:
    """A parameter in the query."""
    return {"name": name, "in": "query", "schema": schema}


def body(schema: Schema, media_type: str = "application/json") -> Schema:
    return {"required": True, "content": {media_type: {"schema": schema}}}


def completion(summary: str, schema: Schema) -> Schema:
    """A POST that is answered whole or as a stream."""
    return {
        "summary": summary,
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": body(schema),
        "responses": {
            "200": {
                "description": "The answer; with `stream: true`, server-sent events.",
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    # OpenAPI 3.1 has no words for a stream; a schema here would be
                    # read as one of each event.
                    "text/event-stream": {},
                },
            },
            **errors(*ERRORS),
        },
    }


def own_job(summary: str, schema: Schema) -> Schema:
    """A POST that is answered whole, as LLMTune answers it."""
    return {
        "summary": summary,
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": body(schema),
        "responses": {
            "200": _ok("It was created.", {"type": "object"}),
            **errors(*ERRORS),
        },
    }


def create(summary: str, answer: Schema, request: Schema, *more: str) -> Schema:
    """A POST that is answered by this process, once for an `Idempotency-Key`."""
    return {
        "summary": summary,
        "parameters": [IDEMPOTENCY_KEY],
        "requestBody": request,
        "responses": {
            "200": _ok("It was created.", answer),
            **errors("401", "409", "422", "429", "503", *REFUSED, *more),
        },
    }


def read(summary: str, answer: Schema, *more: str) -> Schema:
    """What is answered from what is kept, and how else it may end."""
    return {
        "summary": summary,
        "responses": {
            "200": _ok("Found.", answer),
            **errors("401", "503", *more),
        },
    }


def listed(
    summary: str, answer: Schema, parameters: list[Schema], *more: str
) -> Schema:
    """A page of what is kept."""
    return {**read(summary, answer, "400", *more), "parameters": parameters}


def download(summary: str) -> Schema:
    """What is answered in bytes of any form."""
    content: Schema = {"application/octet-stream": {}}
    return {
        "summary": summary,
        "responses": {
            "200": {"description": "All of them.", "content": content},
            **errors("401", "404", "503"),
        },
    }


def unlocked(summary: str, *statuses: str) -> Schema:
    """What is told without a key."""
    answers = {each: _ok("Its state.", {"type": "object"}) for each in statuses}
    return {"summary": summary, "security": [], "responses": answers}


def errors(*statuses: str) -> Schema:
    content = {"application/json": {"schema": ref("Error")}}
    return {
        status: {"description": ERRORS[status], "content": content}
        for status in sorted(set(statuses))
    }


def _ok(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}
