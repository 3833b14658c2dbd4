"""The models LLMTune lists, from whichever of its two list routes answers."""

from __future__ import annotations

from typing import Any, Final

import httpx
import msgspec

from gateway.errors import GatewayError, UpstreamRefused, UpstreamTimeout
from gateway.upstream.client import Credentials
from gateway.upstream.deadline import Deadline
from gateway.upstream.reading import deadline_of, get

# The newer generation first; both are siblings of /v1, not below it.
LIST_PATHS: Final = ("/api/models/list", "/api/agent/v1/models")

# A model picker waits for this; Open WebUI gives up after 10 s.
LIST_TIMEOUT_S: Final = 4.0
MAX_LIST_BYTES: Final = 4 * 1024 * 1024
MAX_MODELS: Final = 2_000


class Model(msgspec.Struct, frozen=True):
    """One model, as OpenAI lists it."""

    id: str
    created: int = 0
    owned_by: str = "llmtune"
    object: str = "model"


async def list_models(
    transport: httpx.AsyncBaseTransport, credentials: Credentials
) -> tuple[Model, ...] | None:
    """
    What the upstream lists; None if it has no list or does not answer.

    UpstreamRefused if it refuses a key that is the caller's own: a client that lists
    models to try its key must not be told that all is well.
    """
    # A fleet whose URL does not end in /v1 is its own root.
    root = credentials.base_url.removesuffix("/v1")
    deadline = deadline_of(LIST_TIMEOUT_S)
    # One deadline for both: a picker that waits twice as long has given up.
    for path in LIST_PATHS:
        try:
            body = await _get(transport, root + path, credentials, deadline)
        except UpstreamTimeout:
            return None
        except UpstreamRefused:
            raise
        except GatewayError:
            continue  # nobody there, or no HTTP: perhaps at the other place
        models = _read(body)
        if models is not None:
            return models
    return None


async def _get(
    transport: httpx.AsyncBaseTransport,
    url: str,
    credentials: Credentials,
    deadline: Deadline,
) -> bytes | None:
    told = await get(
        transport,
        url,
        credentials,
        deadline,
        missed="did not list its models",
        max_bytes=MAX_LIST_BYTES,
    )
    if told.status == 401 and credentials.is_callers_key:
        raise UpstreamRefused(
            "The upstream refused the API key.",
            status=401,
            code="invalid_api_key",
            fault="key_refused",
        )
    return told.body if told.status == 200 else None


def _read(body: bytes | None) -> tuple[Model, ...] | None:
    if body is None:
        return None
    try:
        said = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    listed = said.get("data") if isinstance(said, dict) else None
    if not isinstance(listed, list):
        return None
    models = [_model(item) for item in listed[:MAX_MODELS]]
    return tuple(model for model in models if model is not None)


def _model(item: Any) -> Model | None:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return None
    created, owner = item.get("created"), item.get("owned_by")
    return Model(
        item["id"],
        created if isinstance(created, int) and created >= 0 else 0,
        owner if isinstance(owner, str) else "llmtune",
    )
