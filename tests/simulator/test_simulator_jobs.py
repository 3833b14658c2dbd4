"""Batches and fine-tunes, and the webhooks they end in."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from .harness import CHAT, INFERENCE, MODEL, Delivery, chat, simulated, webhook_receiver

BATCH = "/v1/batch/inference"
FINE_TUNE = "/v1/fine-tune"
SECRET = "whsec_simulator"
QUICK = {"batch_ms": 0, "job_queued_ms": 0, "job_running_ms": 0, "webhook_retry_ms": 1}


def batch(url: str | None = None, **fields: Any) -> dict[str, Any]:
    requests = [{"id": "a", "prompt": "one"}, {"id": "b", "prompt": ""}]
    return {"modelId": MODEL, "requests": requests, "webhookUrl": url, **fields}


def job(url: str | None = None, **fields: Any) -> dict[str, Any]:
    dataset = "https://example.com/data.jsonl"
    return {"baseModel": MODEL, "dataset": dataset, "webhookUrl": url, **fields}


def signed(body: bytes) -> str:
    return hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


async def test_batch_is_accepted_at_once() -> None:
    """The answer says how many of its requests were accepted."""
    async with simulated() as (_, client):
        answer = (await client.post(BATCH, json=batch())).json()

    assert {"batchId", "status", "summary"} == set(answer)
    assert answer["status"] == "queued"
    assert answer["summary"] == {"total": 2, "accepted": 1}


async def test_batch_results_come_in_one_post() -> None:
    """Results have what inference would have answered, errors beside them."""
    async with webhook_receiver() as receiver, simulated(**QUICK) as (_, client):
        accepted = (await client.post(BATCH, json=batch(receiver.url))).json()
        payload = (await receiver.next()).payload
        single = (await client.post(INFERENCE, json={"prompt": "one"})).json()

    assert {"event", "data", "deliveredAt"} == set(payload)
    good, bad = payload["data"]["results"]
    assert payload["data"]["batchId"] == accepted["batchId"]
    assert good == {"id": "a", "text": single["text"], "tokens": single["tokens"]}
    assert (bad["id"], bad["error"]["code"]) == ("b", "BAD_REQUEST")


async def test_batch_results_come_in_one_post_per_item() -> None:
    """--batch-webhook item posts each result on its own."""
    knobs = {**QUICK, "batch_webhook": "item"}
    async with webhook_receiver() as receiver, simulated(**knobs) as (_, client):
        await client.post(BATCH, json=batch(receiver.url))
        results = [(await receiver.next()).payload["data"]["results"] for _ in "ab"]

    assert sorted(result["id"] for [result] in results) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            batch(requests=[{"id": str(n), "prompt": "x"} for n in range(101)]),
            id="101-requests",
        ),
        pytest.param(batch(requests=[]), id="no-requests"),
        pytest.param(batch(requests=[{"id": "a"}, {"id": "a"}]), id="same-id"),
        pytest.param(batch("ftp://example.com"), id="webhook-scheme"),
        pytest.param(batch("http://[::1"), id="webhook-nonsense"),
    ],
)
async def test_invalid_batch_is_refused(body: dict[str, Any]) -> None:
    """Too many, none, ambiguous ids, or nowhere to post: 400."""
    async with simulated() as (_, client):
        answer = await client.post(BATCH, json=body)

    assert answer.status_code == 400


async def test_fine_tune_shows_that_it_runs() -> None:
    """From queued, without metrics, to running, with the first of them."""
    knobs = {**QUICK, "job_running_ms": 60_000}
    async with webhook_receiver() as receiver, simulated(**knobs) as (_, client):
        created = (await client.post(FINE_TUNE, json=job(receiver.url))).json()
        await receiver.next()
        running = (await client.get(f"{FINE_TUNE}/{created['jobId']}")).json()

    assert [created["status"], running["status"]] == ["queued", "running"]
    assert created["metrics"] is None
    assert running["completedAt"] is None
    assert {"loss", "evalLoss", "tokensPerSecond", "totalTokens"} == set(
        running["metrics"]
    )


async def test_fine_tune_shows_that_it_completed() -> None:
    """Once all its events are posted, the job is over and says since when."""
    async with webhook_receiver() as receiver, simulated(**QUICK) as (_, client):
        created = (await client.post(FINE_TUNE, json=job(receiver.url))).json()
        events = [(await receiver.next()).payload for _ in range(3)]
        shown = (await client.get(f"{FINE_TUNE}/{created['jobId']}")).json()

    started = next(e for e in events if e["event"] == "training.started")["data"]
    assert shown["status"] == "completed"
    assert shown["completedAt"] >= shown["createdAt"]
    assert shown["metrics"]["loss"] < started["metrics"]["loss"]


async def test_fine_tune_posts_each_event_and_deploys_its_model() -> None:
    """Started, completed, deployed; then the model answers."""
    async with webhook_receiver() as receiver, simulated(**QUICK) as (_, client):
        await client.post(FINE_TUNE, json=job(receiver.url))
        events = [(await receiver.next()).payload for _ in range(3)]
        model = next(e for e in events if e["event"] == "model.deployed")["data"]
        answer = await client.post(CHAT, json=chat(model=model["modelId"]))

    names = {event["event"] for event in events}
    assert names == {"training.started", "training.completed", "model.deployed"}
    assert {"deploymentId", "modelId", "version", "endpoint"} == set(model)
    assert answer.status_code == 200


async def test_fine_tune_of_a_failing_dataset_fails() -> None:
    """A dataset with `fail` in its name makes the job fail, with the reason."""
    body = job(dataset="s3://data/fail.jsonl")
    async with webhook_receiver() as receiver, simulated(**QUICK) as (_, client):
        created = await client.post(
            FINE_TUNE, json={**body, "webhookUrl": receiver.url}
        )
        events = [(await receiver.next()).payload for _ in range(2)]
        shown = await client.get(f"{FINE_TUNE}/{created.json()['jobId']}")

    assert "training.failed" in [event["event"] for event in events]
    assert shown.json()["status"] == "failed"
    assert shown.json()["error"]["code"] == "DATASET_INVALID"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"baseModel": MODEL}, id="no-dataset"),
        pytest.param(job(dataset="ftp://example.com/x"), id="dataset-scheme"),
        pytest.param(job(hyperparameters={"epochs": 0}), id="no-epochs"),
        pytest.param(job(hyperparameters={"learningRate": 0}), id="no-learning"),
    ],
)
async def test_invalid_fine_tune_is_refused(body: dict[str, Any]) -> None:
    """What cannot be trained gets 400."""
    async with simulated() as (_, client):
        answer = await client.post(FINE_TUNE, json=body)

    assert answer.status_code == 400


async def delivered(**knobs: Any) -> Delivery:
    knobs = {**QUICK, **knobs}
    async with webhook_receiver() as receiver, simulated(**knobs) as (_, client):
        await client.post(BATCH, json=batch(receiver.url))
        return await receiver.next()


async def test_webhook_generation_1_is_unsigned() -> None:
    """The first generation has no signature anywhere."""
    delivery = await delivered()

    assert {"event", "data", "deliveredAt"} == set(delivery.payload)
    assert not any("signature" in name for name in delivery.headers)


async def test_webhook_generation_2_is_signed_in_a_header() -> None:
    """The second signs the raw body in hex."""
    delivery = await delivered(webhook_generation=2)

    assert {"event", "data", "timestamp"} == set(delivery.payload)
    assert delivery.headers["x-webhook-event"] == "batch.completed"
    assert delivery.headers["x-webhook-signature"] == signed(delivery.body)


async def test_webhook_generation_3_is_signed_inside_and_out() -> None:
    """The third signs its payload without the signature, and the body as sent."""
    delivery = await delivered(webhook_generation=3)

    payload = delivery.payload
    signature = payload.pop("signature")
    unsigned = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    assert {"id", "type", "workspace_id", "data", "created_at"} == set(payload)
    assert signature == f"sha256={signed(unsigned.encode())}"
    whole = f"sha256={signed(delivery.body)}"
    assert delivery.headers["x-llmtune-signature"] == whole


@pytest.mark.parametrize("generation", [2, 3])
async def test_webhooks_without_a_secret_are_unsigned(generation: int) -> None:
    """An empty secret turns signing off."""
    delivery = await delivered(webhook_generation=generation, webhook_secret="")

    assert not any("signature" in name for name in delivery.headers)
    assert "signature" not in delivery.payload


async def test_refused_webhook_is_sent_again_unchanged() -> None:
    """Errors and redirects are retried, with the very same event."""
    async with (
        webhook_receiver(500, 302, 404) as receiver,
        simulated(**QUICK, webhook_generation=3) as (simulator, client),
    ):
        await client.post(BATCH, json=batch(receiver.url))
        await simulator.wait_until(lambda stats: stats.webhooks_sent == 1)
        deliveries = [await receiver.next() for _ in range(4)]

    assert len({delivery.body for delivery in deliveries}) == 1
    assert {delivery.path for delivery in deliveries} == {"/hook"}
    assert simulator.stats.webhooks_retried == 3


async def test_webhook_is_given_up_after_five_retries() -> None:
    """A receiver that never takes an event is left alone in the end."""
    async with (
        webhook_receiver(*[500] * 10) as receiver,
        simulated(**QUICK) as (simulator, client),
    ):
        await client.post(BATCH, json=batch(receiver.url))
        await simulator.wait_until(lambda stats: stats.webhooks_failed == 1)

    assert simulator.stats.webhooks_retried == 5
    assert simulator.stats.webhooks_sent == 0


async def test_webhook_to_nobody_is_given_up() -> None:
    """A URL where nothing listens is a failure, not a crash."""
    async with simulated(**QUICK) as (simulator, client):
        await client.post(BATCH, json=batch("http://127.0.0.1:1/hook"))

        await simulator.wait_until(lambda stats: stats.webhooks_failed == 1)


async def test_webhook_copies_share_their_event_id() -> None:
    """Duplicate deliveries can be told by their id."""
    knobs = {**QUICK, "webhook_generation": 3, "webhook_copies": 2}
    async with webhook_receiver() as receiver, simulated(**knobs) as (_, client):
        await client.post(BATCH, json=batch(receiver.url))
        first, second = await receiver.next(), await receiver.next()

    assert first.payload["id"] == second.payload["id"]


async def test_shutdown_gives_up_jobs_and_deliveries() -> None:
    """Nothing outlives the simulator."""
    async with webhook_receiver() as receiver:
        async with simulated(job_queued_ms=60_000) as (_, client):
            await client.post(FINE_TUNE, json=job(receiver.url))

        assert receiver.is_empty()
