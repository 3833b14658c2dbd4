"""LLMTune's own batches and fine-tunes: passed through, under the plan's limits."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, GatewayUnderTest
from tests.servers.redis_server import RedisServer
from tests.upstream import ScriptedUpstream

BATCH = "/v1/batch/inference"
FINE_TUNE = "/v1/fine-tune"
QUEUED = {"batchId": "batch_1", "status": "queued", "summary": {"total": 2}}
JOB = {"jobId": "ft_1", "baseModel": MODEL, "status": "queued", "odd": [1]}
OTHER = {"other": "plan: other\n"}
COUNTED = {
    "counted": "plan: counted\nquotas: [{of: requests, limit: 2, per: month},"
    " {of: tokens, limit: 50000, per: month}]\n"
}


def batch(*ids: Any, **fields: Any) -> dict[str, Any]:
    requests = [{"id": each, "prompt": "Hello", "x": 1} for each in ids]
    return {"modelId": MODEL, "requests": requests, **fields}


def tune(**fields: Any) -> dict[str, Any]:
    return {"baseModel": MODEL, "dataset": "s3://bucket/train.jsonl", **fields}


async def keyed(
    gateway: GatewayUnderTest, path: str, body: Any, key: str, plan: str = "open"
) -> httpx.Response:
    headers = {**gateway.auth(plan), "idempotency-key": key}
    return await gateway.client.post(path, json=body, headers=headers)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize(
    ("path", "body", "said"),
    [(BATCH, batch("a", "b"), QUEUED), (FINE_TUNE, tune(), JOB)],
)
async def test_bodies_go_through_unchanged(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    path: str,
    body: dict[str, Any],
    said: dict[str, Any],
    status: int,
) -> None:
    """Whatever the gateway has no name for, and however LLMTune says yes."""
    upstream.will_answer(said, status)
    raw = json.dumps(body, indent=3).encode()

    answer = await gateway.client.post(path, content=raw, headers=gateway.auth())

    assert (200, said) == (answer.status_code, answer.json())
    assert (path, raw) == (upstream.last.path, upstream.last.body)


async def test_a_completion_takes_no_other_success_than_200(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    upstream.will_answer({"text": "x", "tokens": 1}, 202)
    assert 502 == (await gateway.chat()).status_code


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        pytest.param(BATCH, batch(), "requests", id="no request"),
        pytest.param(BATCH, batch(*range(101)), "requests", id="101 requests"),
        pytest.param(BATCH, batch("a", "a"), "requests", id="one id twice"),
        pytest.param(BATCH, batch(1, "1"), "requests", id="one id in two types"),
        pytest.param(BATCH, {"requests": [{"id": "a"}]}, "modelId", id="no model"),
        pytest.param(BATCH, batch("a", modelId="../x"), "modelId", id="a path"),
        pytest.param(FINE_TUNE, {"dataset": "s3://x"}, "baseModel", id="no base"),
        pytest.param(FINE_TUNE, tune(baseModel=""), "baseModel", id="empty base"),
    ],
)
async def test_a_wrong_body_is_refused_by_name(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    path: str,
    body: dict[str, Any],
    param: str,
) -> None:
    """And never sent."""
    refused = await gateway.post(path, **body)
    assert 400 == refused.status_code
    assert param == refused.json()["error"]["param"]
    assert not upstream.requests


@pytest.mark.parametrize(("path", "body"), [(BATCH, batch("a")), (FINE_TUNE, tune())])
async def test_a_model_outside_the_plan_is_refused(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    path: str,
    body: dict[str, Any],
) -> None:
    gateway = await start_gateway({"small": "plan: small\nmodels: [llmtune-mini]\n"})
    refused = await gateway.post(path, "small", **body)
    assert (404, "model_not_found") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )
    assert not upstream.requests


async def test_a_batch_costs_an_answer_for_each_prompt(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Nobody tells the gateway what the answers took: what was reserved stands."""
    gateway = await start_gateway(COUNTED)
    upstream.will_answer(QUEUED, 202)

    await gateway.post(BATCH, "counted", **batch(*range(10)))
    await gateway.until_free("counted")

    used = await gateway.used("counted")
    assert 1 == used["requests-per-calendar-month"]
    assert 10 * 1024 <= used["tokens-per-calendar-month"] < 10 * 1100


async def test_a_batchs_prompts_are_bounded_one_by_one(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Together they may be longer than the plan lets one be."""
    gateway = await start_gateway(
        {"brief": "plan: brief\nrequest: {max_input_tokens: 10}\n"}
    )
    upstream.will_answer(QUEUED)
    long = {"modelId": MODEL, "requests": [{"id": "a", "prompt": "x" * 100}]}

    assert 200 == (await gateway.post(BATCH, "brief", **batch(*range(50)))).status_code
    refused = await gateway.post(BATCH, "brief", **long)
    assert "context_length_exceeded" == refused.json()["error"]["code"]


async def test_a_fine_tune_is_one_request_and_no_tokens(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """And is refused like any other when the plan has no more of them."""
    gateway = await start_gateway(COUNTED)
    for number in range(2):
        upstream.will_answer({**JOB, "jobId": f"ft_{number}"})
        assert 200 == (await gateway.post(FINE_TUNE, "counted", **tune())).status_code
    await gateway.until_free("counted")

    refused = await gateway.post(FINE_TUNE, "counted", **tune())

    assert (429, 2) == (refused.status_code, len(upstream.requests))
    assert 0 == (await gateway.used("counted"))["tokens-per-calendar-month"]


async def test_a_key_makes_one_job(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    upstream.will_answer(JOB, 201)

    answers = [await keyed(gateway, FINE_TUNE, tune(), "once") for _ in range(2)]

    assert [JOB, JOB] == [answer.json() for answer in answers]
    assert 1 == len(upstream.requests)
    reused = await keyed(gateway, FINE_TUNE, tune(suffix="x"), "once")
    assert 422 == reused.status_code


async def test_two_workspaces_with_one_key_are_not_given_one_job(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """To LLMTune they are the same caller, so the key goes on under another name."""
    gateway = await start_gateway(OTHER)
    for plan in ("open", "other", "other"):
        upstream.will_answer({"error": {"message": "no"}}, 500)
        await keyed(gateway, FINE_TUNE, tune(), "same", plan)

    ours, others, again = [
        each.headers["idempotency-key"] for each in upstream.requests
    ]
    assert ours != others == again
    assert "same" not in (ours, others)


async def test_a_brought_keys_own_idempotency_key_goes_on_as_it_is(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(upstream_api_key=None)
    upstream.will_answer(JOB)
    await keyed(gateway, FINE_TUNE, tune(), "mine")
    assert "mine" == upstream.last.headers["idempotency-key"]


async def test_a_completions_key_stays_here(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    await keyed(gateway, "/v1/chat/completions", body, "once")
    assert "idempotency-key" not in upstream.last.headers


async def test_a_fine_tune_is_shown_to_who_created_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """As LLMTune tells it; to everybody else it does not exist."""
    gateway = await start_gateway(OTHER)
    upstream.will_answer(JOB)
    await gateway.post(FINE_TUNE, **tune())
    running = {**JOB, "status": "running", "metrics": {"loss": 1.5}}
    upstream.will_answer(running)

    shown = await gateway.get(f"{FINE_TUNE}/ft_1")

    assert (200, running) == (shown.status_code, shown.json())
    assert ("GET", f"{FINE_TUNE}/ft_1") == (upstream.last.method, upstream.last.path)
    asked = len(upstream.requests)
    for path, plan in ((f"{FINE_TUNE}/ft_1", "other"), (f"{FINE_TUNE}/ft_2", "open")):
        hidden = await gateway.get(path, plan)
        assert (404, "not_found") == (
            hidden.status_code,
            hidden.json()["error"]["code"],
        )
    assert asked == len(upstream.requests)


@pytest.mark.parametrize(
    ("status", "told"), [(401, 502), (404, 404), (429, 429), (500, 502)]
)
async def test_what_llmtune_refuses_is_told(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, status: int, told: int
) -> None:
    upstream.will_answer(JOB)
    await gateway.post(FINE_TUNE, **tune())
    upstream.will_answer({"error": {"message": "no such job", "code": "X"}}, status)
    assert told == (await gateway.get(f"{FINE_TUNE}/ft_1")).status_code


async def test_nobody_comes_in_without_a_key(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    for method, path in (
        ("POST", BATCH),
        ("POST", FINE_TUNE),
        ("GET", "/v1/fine-tune/x"),
    ):
        assert 401 == (await gateway.client.request(method, path)).status_code
    assert 405 == (await gateway.client.get(BATCH)).status_code
    assert not upstream.requests


class TestModels:
    """A model that a workspace has tuned is that workspace's."""

    async def test_the_owner_sees_it_at_once_and_nobody_else_does(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(OTHER)
        done = {**JOB, "status": "completed", "modelName": "ft/mini/1"}
        upstream.will_answer({"data": [{"id": MODEL}]})
        assert [MODEL] == await self.listed(gateway, "open")
        upstream.will_answer(done)
        await gateway.post(FINE_TUNE, **tune())

        ours = await self.listed(gateway, "open")

        assert {MODEL, "ft/mini/1"} == set(ours)
        assert [MODEL] == await self.listed(gateway, "other")

    async def listed(self, gateway: GatewayUnderTest, plan: str) -> list[str]:
        answer = await gateway.get("/v1/models", plan)
        return [each["id"] for each in answer.json()["data"]]

    async def test_nobody_else_can_ask_it(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        """Nor tune it further; LLMTune would let everybody."""
        gateway = await start_gateway(OTHER)
        upstream.will_answer({**JOB, "modelName": "ft/mini/1"})
        await gateway.post(FINE_TUNE, **tune())
        asked = len(upstream.requests)

        assert 404 == (await gateway.chat("other", model="ft/mini/1")).status_code
        further = await gateway.post(FINE_TUNE, "other", **tune(baseModel="ft/mini/1"))
        assert 404 == further.status_code
        assert asked == len(upstream.requests)
        assert 200 == (await gateway.chat(model="ft/mini/1")).status_code

    async def test_a_replica_knows_from_its_first_request_on(
        self,
        start_gateway: StartGateway,
        upstream: ScriptedUpstream,
        redis_server: RedisServer,
    ) -> None:
        """Names are easy to guess, and replicas are restarted all the time."""
        model = f"ft/mini/{uuid.uuid4().hex}"
        settings = {"store_url": redis_server.unix_url, "store_timeout_s": 5.0}
        first = await start_gateway(OTHER, **settings)
        upstream.will_answer({**JOB, "modelName": model})
        assert 200 == (await first.post(FINE_TUNE, **tune())).status_code

        second = await start_gateway(OTHER, **settings)

        assert 404 == (await second.chat("other", model=model)).status_code
        assert 200 == (await second.chat(model=model)).status_code
