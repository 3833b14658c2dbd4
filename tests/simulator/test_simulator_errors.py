"""Keys, validation and unknown things, in both error shapes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from .harness import CHAT, INFERENCE, chat, simulated


async def test_error_in_seed_shape() -> None:
    """The seed's shape: message, code and details under error."""
    async with simulated() as (_, client):
        answer = await client.post("/v1/models/no/such/inference", json={"prompt": "x"})

    assert answer.status_code == 404
    assert answer.json() == {
        "error": {
            "message": "The model 'no/such' does not exist.",
            "code": "MODEL_NOT_FOUND",
            "details": {},
        }
    }


async def test_error_in_docs_shape() -> None:
    """The newer shape: error is the code, message stands beside it."""
    async with simulated(error_shape="docs") as (_, client):
        answer = await client.post(CHAT, json=chat(model="none"))

    assert answer.json() == {
        "error": "model_not_found",
        "message": "The model 'none' does not exist.",
    }


@pytest.mark.parametrize("shape", ["seed", "docs"])
async def test_rate_limit_says_when_to_come_back(shape: str) -> None:
    """429 carries its wait in the header and in the body of either shape."""
    async with simulated(error_shape=shape, retry_after_s=60) as (_, client):
        answer = await client.post(CHAT, json=chat(model="simulator/rate-limit"))

    body = answer.json()
    wait = body["retryAfter"] if shape == "docs" else body["error"]["details"]
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert wait in (60, {"retryAfter": 60})


@pytest.mark.parametrize("given", ["", "Bearer", "bearer"])
async def test_missing_key_is_refused(given: str) -> None:
    """An empty header, and nothing after Bearer, get 401."""
    async with simulated() as (_, client):
        headers = {"authorization": given}
        answer = await client.post(INFERENCE, json={"prompt": "x"}, headers=headers)

    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("given", "status"),
    [
        pytest.param("Bearer sk_live_right", 200, id="bearer"),
        pytest.param("sk_live_right", 200, id="bare"),
        pytest.param("bearer sk_live_second", 200, id="second-key"),
        pytest.param("Bearer sk_live_wrong", 401, id="wrong"),
    ],
)
async def test_only_configured_keys_are_accepted(given: str, status: int) -> None:
    """With --api-key, every other key gets 401."""
    keys = ("sk_live_right", "sk_live_second")
    async with simulated(api_keys=keys) as (_, client):
        headers = {"authorization": given}
        answer = await client.post(INFERENCE, json={"prompt": "x"}, headers=headers)

    assert answer.status_code == status


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param({}, "prompt", id="nothing"),
        pytest.param({"prompt": 5}, "prompt", id="prompt-type"),
        pytest.param({"prompt": "x", "temperature": 3}, "temperature", id="hot"),
        pytest.param({"prompt": "x", "maxTokens": 0}, "maxTokens", id="max-tokens"),
        pytest.param({"prompt": "x", "max_tokens": -1}, "max_tokens", id="snake"),
        pytest.param({"prompt": "x", "topP": 2}, "topP", id="top-p"),
        pytest.param({"prompt": "x", "topK": 1.5}, "topK", id="top-k"),
        pytest.param({"prompt": "x", "stream": "yes"}, "stream", id="stream"),
        pytest.param({"messages": []}, "messages", id="no-messages"),
        pytest.param(
            {"messages": [{"role": "boss", "content": "x"}]},
            "messages[0].role",
            id="role",
        ),
    ],
)
async def test_invalid_inference_is_refused_by_field(
    body: dict[str, Any], field: str
) -> None:
    """A 400 names the field that is wrong."""
    async with simulated() as (_, client):
        answer = await client.post(INFERENCE, json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["details"] == {"field": field}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"messages": []}, id="no-messages"),
        pytest.param({"n": 129}, id="n"),
        pytest.param({"stop": ["a"] * 5}, id="five-stops"),
        pytest.param({"top_logprobs": 21}, id="top-logprobs"),
        pytest.param({"seed": 2**70}, id="seed"),
        pytest.param({"tools": [{"type": "function"}]}, id="tool-without-function"),
        pytest.param({"tool_choice": "required"}, id="no-tools"),
        pytest.param(
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            id="unknown-tool",
        ),
    ],
)
async def test_invalid_chat_is_refused(fields: dict[str, Any]) -> None:
    """Out-of-range chat parameters get 400."""
    async with simulated() as (_, client):
        answer = await client.post(CHAT, json=chat(**fields))

    assert answer.status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"prompt": ', id="cut"),
        pytest.param(b'{"prompt": "\xff"}', id="not-utf-8"),
        pytest.param(b'{"metadata": ' + b"[" * 100_000, id="deep"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'{"prompt": "x", "topP": NaN}', id="nan"),
        pytest.param(b'{"prompt": "x", "topP": 1e999}', id="huge"),
    ],
)
async def test_body_that_is_no_request_is_refused(body: bytes) -> None:
    """Whatever the bytes, the answer is a 400 in LLMTune's shape."""
    async with simulated() as (_, client):
        answer = await client.post(INFERENCE, content=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BAD_REQUEST")


async def test_body_above_the_limit_is_refused() -> None:
    """A body larger than the knob allows gets 413."""
    async with simulated(max_body_bytes=1_000) as (_, client):
        answer = await client.post(INFERENCE, json={"prompt": "x" * 500_000})

    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFERENCE, 405),
        ("DELETE", "/v1/fine-tune", 405),
        ("POST", "/api/health", 405),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/models/inference", 404),
        ("POST", "/v1/models//inference", 404),
        ("GET", "/v1/fine-tune/ft_unknown", 404),
    ],
)
async def test_wrong_path_or_method_is_refused(
    method: str, path: str, status: int
) -> None:
    """404 and 405 have LLMTune's shape; 405 names the method that works."""
    async with simulated() as (_, client):
        answer = await client.request(method, path)

    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert ("allow" in answer.headers) == (status == 405)


async def test_configured_models_replace_the_built_in_ones() -> None:
    """--model leaves only those models, and the faults' own."""
    async with simulated(models=("acme/one",)) as (_, client):
        known = await client.post(CHAT, json=chat(model="acme/one"))
        unknown = await client.post(CHAT, json=chat())

    assert (known.status_code, unknown.status_code) == (200, 404)


async def test_health_needs_no_key() -> None:
    """Probes have no key."""
    async with simulated() as (simulator, _), httpx.AsyncClient() as stranger:
        health = await stranger.get(f"{simulator.url}/api/health")
        models = await stranger.get(f"{simulator.url}/api/models/list")

    assert (health.status_code, models.status_code) == (200, 401)
    assert health.json()["status"] == "ok"
