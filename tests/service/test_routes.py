"""The other routes: models, LLMTune's own, text completions, operation, CORS."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, GatewayUnderTest, events_of
from tests.upstream import ScriptedUpstream

LISTED = {
    "success": True,
    "count": 2,
    "data": [{"id": "org/a", "name": "A"}, {"id": "b"}],
}


async def test_models_come_from_upstream_configuration_and_plan(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """One list, in OpenAI's form, asked for once."""
    plan = "plan: some\nmodels: ['org/*', mine, extra]"
    gateway = await start_gateway({"some": plan}, models=("extra",))
    upstream.will_answer(LISTED)

    first = await gateway.get("/v1/models", "some")
    await gateway.get("/v1/models/", "some")

    assert first.json()["object"] == "list"
    assert ["org/a", "extra", "mine"] == [m["id"] for m in first.json()["data"]]
    assert {"id", "object", "created", "owned_by"} == set(first.json()["data"][0])
    assert ["/api/models/list"] == [request.path for request in upstream.requests]


async def test_the_older_list_route_is_tried_second(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Generations of LLMTune list their models at different places."""
    upstream.will_answer({"error": "not_found", "message": "no"}, status=404)
    upstream.will_answer({"object": "list", "data": [{"id": "m"}]})

    response = await gateway.get("/v1/models")

    assert ["m"] == [model["id"] for model in response.json()["data"]]
    assert upstream.last.path == "/api/agent/v1/models"


async def test_a_list_that_upstream_no_longer_gives_is_served_on(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A model picker is no place for an outage to begin, nor for one call each time."""
    gateway = await start_gateway(models_ttl_s=0.01)
    upstream.will_answer(LISTED)
    await gateway.get("/v1/models")
    await asyncio.sleep(0.02)  # the list's time to live
    upstream.will_answer({}, status=500)
    upstream.will_answer({}, status=500)

    again = [await gateway.get("/v1/models") for _ in range(3)]

    for response in again:
        assert ["org/a", "b"] == [model["id"] for model in response.json()["data"]]
    assert len(upstream.requests) == 3


async def test_callers_with_their_own_keys_see_their_own_lists(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """One tenant's private models are not another's."""
    gateway = await start_gateway(default_plan="open")
    upstream.will_answer({"data": [{"id": "mine/secret"}]})
    upstream.will_answer({"data": [{"id": "yours"}]})

    lists = [
        (
            await gateway.client.get(
                "/v1/models", headers={"authorization": f"Bearer sk_live_{who}"}
            )
        ).json()["data"]
        for who in ("me", "you", "me")
    ]

    seen = [[model["id"] for model in models] for models in lists]
    assert [["mine/secret"], ["yours"], ["mine/secret"]] == seen


async def test_a_brought_key_that_upstream_refuses_lists_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Clients try a key by listing models: an empty list would say that it is good."""
    gateway = await start_gateway(default_plan="open")
    upstream.will_answer({"error": {"message": "no", "code": "UNAUTHORIZED"}}, 401)
    headers = {"authorization": "Bearer sk_live_guess"}

    answers = [await gateway.client.get("/v1/models", headers=headers) for _ in "12"]

    assert [401, 401] == [answer.status_code for answer in answers]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("path", ["org/a", "org%2Fa"], ids=["raw", "escaped"])
async def test_a_model_is_found_with_raw_or_escaped_slashes(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, path: str
) -> None:
    """SDK generations differ in how they write an id into a path."""
    upstream.will_answer(LISTED)

    response = await gateway.get(f"/v1/models/{path}")

    assert response.json()["id"] == "org/a"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"/v1/models/{MODEL}/inference", {"prompt": "Hi", "maxTokens": 5, "odd": [1]}),
        ("/v1/playground/inference", {"modelId": MODEL, "prompt": "Hi", "odd": [1]}),
    ],
    ids=["inference", "playground"],
)
async def test_native_calls_pass_through_unchanged_under_the_same_limits(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    path: str,
    body: dict[str, Any],
) -> None:
    """LLMTune's own clients keep their own shapes, and their plan."""
    plan = "plan: once\nquotas: [{of: requests, limit: 1, per: month}]"
    gateway = await start_gateway({"once": plan})
    answer = {"text": "Hi!", "tokens": 9, "latency": 3, "own": {"field": 1}}
    upstream.will_answer(answer)

    first = await gateway.post(path, "once", **body)
    second = await gateway.post(path, "once", **body)

    assert (first.status_code, first.json()) == (200, answer)
    assert upstream.requests[0].path == path
    assert upstream.requests[0].json == body
    assert second.status_code == 429


async def test_native_streams_pass_through_event_by_event(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Whatever form the events have, their bytes are not ours to change."""
    events = [{"text": "Hel"}, {"token": "lo", "own": 1}]
    upstream.will_stream(*events)

    response = await gateway.post(
        f"/v1/models/{MODEL}/inference", prompt="Hi", stream=True
    )

    assert [*events, "[DONE]"] == events_of(response)


async def test_text_completions_whole_and_streamed(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """The legacy route takes the same path."""
    upstream.will_answer({"text": " world", "tokens": 9})
    upstream.will_stream({"text": " wor"}, {"text": "ld"})
    body: dict[str, Any] = {"model": MODEL, "prompt": "Hello", "echo": True}

    whole = (await gateway.post("/v1/completions", **body)).json()
    streamed = await gateway.post("/v1/completions", **body, stream=True)

    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"] == "Hello world"
    assert upstream.requests[0].json["maxTokens"] == 16
    *chunks, done = events_of(streamed)
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"]]
    assert ("Hello world", "[DONE]") == ("".join(texts), done)


@pytest.mark.parametrize(
    ("field", "value"),
    [("prompt", ["a", "b"]), ("prompt", [1, 2]), ("suffix", "x"), ("logprobs", 2)],
)
async def test_text_completions_refuse_what_llmtune_has_no_word_for(
    gateway: GatewayUnderTest, field: str, value: Any
) -> None:
    """Refused by name, rather than answered with something else."""
    body = {"model": MODEL, "prompt": "Hello", field: value}

    response = await gateway.post("/v1/completions", **body)

    assert (400, field) == (response.status_code, response.json()["error"]["param"])


async def test_operation_routes_need_no_key(gateway: GatewayUnderTest) -> None:
    """Probes and scrapers carry none."""
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        assert (await gateway.client.get(path)).status_code == 200


async def test_ready_says_what_an_operator_asks_next(gateway: GatewayUnderTest) -> None:
    """Which plans, which store, draining or not."""
    details = (await gateway.client.get("/readyz")).json()

    assert details["status"] == "ready"
    assert details["plans"] == ["open"]
    assert details["store"] == {"kind": "memory"}


async def test_metrics_are_negotiated(gateway: GatewayUnderTest) -> None:
    """Prometheus asks for OpenMetrics and gets it."""
    await gateway.chat()

    text = await gateway.client.get("/metrics")
    openmetrics = await gateway.client.get(
        "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
    )

    assert text.headers["content-type"].startswith("text/plain")
    assert openmetrics.text.endswith("# EOF\n")
    counted = 'requests_total{outcome="ok",route="/v1/chat/completions"} 1.0'
    assert f"llmtune_gateway_{counted}" in text.text


async def test_head_is_get_without_a_body(gateway: GatewayUnderTest) -> None:
    """curl -I and uptime checks work on every readable route."""
    head = await gateway.client.head("/livez")

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == "17"


async def test_options_names_the_methods(gateway: GatewayUnderTest) -> None:
    """Without CORS, too."""
    response = await gateway.client.options("/v1/chat/completions")

    assert (response.status_code, response.headers["allow"]) == (204, "OPTIONS, POST")


async def test_metrics_move_to_the_ops_port(
    start_gateway: StartGateway, unused_tcp_port: int
) -> None:
    """What operators see can be kept from those who call."""
    gateway = await start_gateway(ops_port=unused_tcp_port)
    ops = f"http://127.0.0.1:{unused_tcp_port}"

    assert (await gateway.client.get("/metrics")).status_code == 404
    assert (await gateway.client.get("/livez")).status_code == 200
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{ops}/metrics")).status_code == 200
        assert (await client.get(f"{ops}/readyz")).status_code == 200
        assert (await client.get(f"{ops}/v1/models")).status_code == 404


PREFLIGHT = {
    "origin": "https://app.example.com",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, x-stainless-os, x-evil",
}


async def test_cors_is_off_by_default(gateway: GatewayUnderTest) -> None:
    """A browser may not spend a workspace's tokens unless an operator says so."""
    preflight = await gateway.client.options("/v1/models", headers=PREFLIGHT)

    assert "access-control-allow-origin" not in preflight.headers


async def test_cors_is_exact_when_on(start_gateway: StartGateway) -> None:
    """Named origins, named headers, errors included."""
    gateway = await start_gateway(cors_origins=("https://app.example.com",))

    preflight = await gateway.client.options("/v1/models", headers=PREFLIGHT)
    answer = await gateway.client.get("/nowhere", headers=PREFLIGHT)
    other = await gateway.client.options(
        "/v1/models", headers=PREFLIGHT | {"origin": "https://evil.example.com"}
    )

    allowed = preflight.headers["access-control-allow-headers"]
    assert preflight.headers["access-control-allow-origin"] == PREFLIGHT["origin"]
    assert "authorization" in allowed
    assert "x-stainless-os" in allowed
    assert "x-evil" not in allowed
    assert answer.headers["access-control-allow-origin"] == PREFLIGHT["origin"]
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in other.headers


async def test_the_description_names_the_routes(gateway: GatewayUnderTest) -> None:
    """`/openapi.json` is what client generators and fuzzers read."""
    document = (await gateway.client.get("/openapi.json")).json()

    chat = document["paths"]["/v1/chat/completions"]["post"]
    schema = chat["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/ChatRequest"}
    assert "temperature" in json.dumps(document["components"]["schemas"]["ChatRequest"])
