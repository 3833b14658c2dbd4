"""Fine-tunes from their training file to a chat with the model."""

from __future__ import annotations

from typing import Any

import pytest

from tests.batches.conftest import ENDS_WITHIN_S, jsonl
from tests.fine_tuning.conftest import (
    EXAMPLE,
    JOBS,
    SLOW,
    StartTuning,
    TuningHouse,
)
from tests.gateway_under_test import MODEL
from tests.proofs.check import until

OTHER = {"other": "plan: other\n"}


async def test_a_training_file_becomes_a_model_that_answers(
    tuning: TuningHouse,
) -> None:
    """With webhooks, long before anybody would have looked."""
    assert MODEL in await tuning.models()

    started = await tuning.start(
        metadata={"a": "b"}, suffix="mine", hyperparameters={"n_epochs": 2}
    )
    ended = await tuning.ended(started["id"])

    assert ("validating_files", None, None) == (
        started["status"],
        started["fine_tuned_model"],
        started["finished_at"],
    )
    assert ("succeeded", None, {"a": "b"}) == (
        ended["status"],
        ended["error"],
        ended["metadata"],
    )
    assert 2 == ended["hyperparameters"]["n_epochs"]
    assert ended["trained_tokens"] > 0
    assert ended["finished_at"] >= ended["created_at"]
    assert ended["estimated_finish"] is None
    model = ended["fine_tuned_model"]
    assert model in await tuning.models()
    answered = await tuning.gateway.chat(model=model)
    assert (200, model) == (answered.status_code, answered.json()["model"])


async def test_the_log_tells_the_way_and_the_metrics(tuning: TuningHouse) -> None:
    started = await tuning.start()
    ended = await tuning.ended(started["id"])

    events = await tuning.events(started["id"])

    messages = [each["message"] for each in events]
    assert messages[0].startswith("Created fine-tuning job")
    assert "The job has successfully completed" == messages[-1]
    assert any(ended["fine_tuned_model"] in message for message in messages)
    metrics = [each for each in events if each["type"] == "metrics"]
    assert metrics
    assert {"train_loss", "valid_loss", "total_tokens"} <= metrics[-1]["data"].keys()
    ids = [each["id"] for each in events]
    assert sorted(set(ids)) == ids
    assert {"fine_tuning.job.event"} == {each["object"] for each in events}


async def test_the_log_comes_in_pages(tuning: TuningHouse) -> None:
    """The newest first."""
    job_id = (await tuning.start())["id"]
    await tuning.ended(job_id)
    path = f"{JOBS}/{job_id}/events"
    whole = (await tuning.gateway.get(f"{path}?limit=100")).json()

    first = (await tuning.gateway.get(f"{path}?limit=2")).json()
    rest = (
        await tuning.gateway.get(f"{path}?limit=100&after={first['last_id']}")
    ).json()

    assert (True, False) == (first["has_more"], rest["has_more"])
    assert whole["data"] == first["data"] + rest["data"]


async def test_webhooks_that_never_come_are_made_up_for(
    start_tuning: StartTuning,
) -> None:
    """LLMTune is asked."""
    tuning = await start_tuning(knobs={"webhook_drop": 1.0}, fine_tune_poll_s=0.05)
    started = await tuning.start()
    ended = await tuning.ended(started["id"])
    assert "succeeded" == ended["status"]
    assert ended["fine_tuned_model"] in await tuning.models()


async def test_webhooks_that_come_twice_change_nothing(
    start_tuning: StartTuning,
) -> None:
    tuning = await start_tuning(knobs={"webhook_copies": 3})
    started = await tuning.start()
    await tuning.ended(started["id"])
    messages = [each["message"] for each in await tuning.events(started["id"])]
    assert len(messages) == len(set(messages))


@pytest.mark.parametrize("generation", [1, 2, 3])
async def test_webhooks_of_every_generation_wake_the_job(
    start_tuning: StartTuning, generation: int
) -> None:
    """The oldest are not signed: the URL that they come to is."""
    tuning = await start_tuning(knobs={"webhook_generation": generation})
    started = await tuning.start()
    assert "succeeded" == (await tuning.ended(started["id"]))["status"]


async def test_a_training_that_fails_is_told_with_its_error(
    tuning: TuningHouse,
) -> None:
    file_id = await tuning.upload(name="to-fail.jsonl")
    started = await tuning.start(training_file=file_id)
    ended = await tuning.ended(started["id"])

    assert ("failed", None) == (ended["status"], ended["fine_tuned_model"])
    assert {
        "code": "dataset_invalid",
        "message": "The dataset is empty.",
        "param": None,
    } == ended["error"]
    assert ended["finished_at"]
    assert "error" == (await tuning.events(started["id"]))[-1]["level"]


async def test_a_model_that_llmtune_does_not_know_fails_the_job(
    tuning: TuningHouse,
) -> None:
    started = await tuning.start(model="nobody/knows")
    ended = await tuning.ended(started["id"])
    assert ("failed", "model_not_found") == (ended["status"], ended["error"]["code"])


GOOD = jsonl([EXAMPLE])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        pytest.param(GOOD + b"{", 2, id="no JSON"),
        pytest.param(GOOD * 2 + b"[]\n" + GOOD, 3, id="a list"),
        pytest.param(GOOD + jsonl([{"messages": []}]), 2, id="no message"),
        pytest.param(GOOD + jsonl([{"prompt": "x"}]), 2, id="no messages"),
        pytest.param(b"\n\n" + jsonl([{"messages": 1}]), 3, id="after empty lines"),
        pytest.param(
            jsonl([{"messages": [{"role": "user", "content": "x"}]}]), 1, id="no answer"
        ),
        pytest.param(
            jsonl([{"messages": [{"role": "boss", "content": "x"}]}]), 1, id="a role"
        ),
        pytest.param(GOOD + b"\xff\n", 2, id="no UTF-8"),
    ],
)
async def test_a_wrong_line_is_named_by_its_number(
    tuning: TuningHouse, content: bytes, line: int
) -> None:
    """And nothing is sent."""
    file_id = await tuning.upload(content)
    started = await tuning.start(training_file=file_id)
    ended = await tuning.ended(started["id"])

    assert "failed" == ended["status"]
    assert ("invalid_training_file", "training_file") == (
        ended["error"]["code"],
        ended["error"]["param"],
    )
    assert f"Line {line} " in ended["error"]["message"]
    assert 0 == tuning.sent


async def test_an_empty_file_teaches_nothing(tuning: TuningHouse) -> None:
    started = await tuning.start(training_file=await tuning.upload(b"\n"))
    assert "empty_file" == (await tuning.ended(started["id"]))["error"]["code"]


SUPERVISED = {"learning_rate_multiplier": 0.5}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-1"}, "validation_file"),
        ({"seed": 42}, "seed"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"method": {"type": "reinforcement"}}, "method.type"),
        ({"hyperparameters": SUPERVISED}, "hyperparameters.learning_rate_multiplier"),
        (
            {
                "method": {
                    "type": "supervised",
                    "supervised": {"hyperparameters": SUPERVISED},
                }
            },
            "method.supervised.hyperparameters.learning_rate_multiplier",
        ),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 257}}, "hyperparameters.batch_size"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"model": ""}, "model"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
async def test_what_is_refused_is_named(
    tuning: TuningHouse, fields: dict[str, Any], param: str
) -> None:
    refused = await tuning.create(**fields)
    assert 400 == refused.status_code
    assert param == refused.json()["error"]["param"]
    assert refused.json()["error"]["message"]


async def test_null_and_auto_ask_for_nothing(tuning: TuningHouse) -> None:
    """As SDKs and older examples send them."""
    automatic = {
        "n_epochs": "auto",
        "batch_size": "auto",
        "learning_rate_multiplier": "auto",
    }
    started = await tuning.start(
        validation_file=None, seed=None, integrations=None, hyperparameters=automatic
    )
    assert automatic == started["hyperparameters"]
    assert "succeeded" == (await tuning.ended(started["id"]))["status"]


async def test_a_file_for_something_else_is_no_training_file(
    tuning: TuningHouse,
) -> None:
    refused = await tuning.create(training_file=await tuning.upload(purpose="batch"))
    assert "training_file" == refused.json()["error"]["param"]


async def test_a_model_outside_the_plan_is_refused(start_tuning: StartTuning) -> None:
    tuning = await start_tuning({"small": "plan: small\nmodels: [llmtune-mini]\n"})
    assert 404 == (await tuning.create("small")).status_code


async def test_a_suspended_workspace_begins_none(start_tuning: StartTuning) -> None:
    """Nothing else of its plan is spent, and LLMTune does not hear of it."""
    tuning = await start_tuning({"suspended": "plan: suspended\nconcurrency: 0\n"})
    answer = await tuning.create("suspended")
    assert (429, "request_exceeds_limit") == (
        answer.status_code,
        answer.json()["error"]["code"],
    )
    assert not tuning.llmtune.stats.requests


async def test_a_job_is_a_request_of_its_plan(start_tuning: StartTuning) -> None:
    plan = "plan: two\nquotas: [{of: requests, limit: 1, per: month}]\n"
    tuning = await start_tuning({"two": plan})
    assert 200 == (await tuning.create("two")).status_code
    assert 429 == (await tuning.create("two")).status_code


@pytest.mark.parametrize(
    "settings",
    [
        {"public_url": None},
        {"public_url": None, "webhook_secret": None},
        {"upstream_api_key": None},
    ],
)
async def test_a_gateway_that_cannot_tune_says_why(
    start_tuning: StartTuning, settings: dict[str, Any]
) -> None:
    tuning = await start_tuning(**settings)
    refused = await tuning.create()
    assert 400 == refused.status_code
    assert "GATEWAY_" in refused.json()["error"]["message"]


class TestCancelling:
    """LLMTune cannot; what the gateway can do, it does, and says what it cannot."""

    async def test_what_was_sent_is_followed_no_more(
        self, start_tuning: StartTuning
    ) -> None:
        """And the log says that LLMTune may finish it."""
        tuning = await start_tuning(knobs=SLOW)
        job_id = (await tuning.start())["id"]

        async def is_sent() -> bool:
            return tuning.sent > 0

        await until(is_sent, "the job to be sent", within_s=ENDS_WITHIN_S)
        cancelled = await tuning.gateway.post(f"{JOBS}/{job_id}/cancel")

        assert "cancelled" == cancelled.json()["status"]
        assert cancelled.json()["finished_at"]
        told = (await tuning.events(job_id))[-1]
        assert ("warn", True) == (told["level"], "may finish" in told["message"])
        again = await tuning.gateway.post(f"{JOBS}/{job_id}/cancel")
        assert cancelled.json() == again.json()

    async def test_what_has_ended_stays(self, tuning: TuningHouse) -> None:
        job_id = (await tuning.start())["id"]
        ended = await tuning.ended(job_id)
        cancelled = await tuning.gateway.post(f"{JOBS}/{job_id}/cancel")
        assert ended == cancelled.json()


@pytest.mark.parametrize("verb", ["pause", "resume"])
async def test_pausing_is_refused(tuning: TuningHouse, verb: str) -> None:
    job_id = (await tuning.start())["id"]
    refused = await tuning.gateway.post(f"{JOBS}/{job_id}/{verb}")
    assert (400, "unsupported_operation") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )


async def test_there_are_no_checkpoints(tuning: TuningHouse) -> None:
    """LLMTune tells of none."""
    job_id = (await tuning.start())["id"]
    listed = (await tuning.gateway.get(f"{JOBS}/{job_id}/checkpoints")).json()
    assert ([], False) == (listed["data"], listed["has_more"])


async def test_lists_come_in_pages_and_by_metadata(start_tuning: StartTuning) -> None:
    """The newest first."""
    tuning = await start_tuning(knobs=SLOW)
    file_id = await tuning.upload()
    made = [
        (await tuning.start(training_file=file_id, metadata={"parity": str(n % 2)}))
        for n in range(5)
    ]
    ids = [each["id"] for each in made][::-1]

    async def page(query: str) -> dict[str, Any]:
        found: dict[str, Any] = (await tuning.gateway.get(f"{JOBS}{query}")).json()
        return found

    first = await page("?limit=2")
    assert (ids[:2], True) == (
        [each["id"] for each in first["data"]],
        first["has_more"],
    )
    second = await page(f"?limit=5&after={first['last_id']}")
    assert ids[2:] == [each["id"] for each in second["data"]]
    assert not second["has_more"]
    even = await page("?metadata[parity]=0&limit=2")
    assert (ids[::2][:2], True) == (
        [each["id"] for each in even["data"]],
        even["has_more"],
    )
    assert [] == (await page("?metadata[parity]=2"))["data"]


async def test_other_workspaces_see_nothing(start_tuning: StartTuning) -> None:
    """Neither the job, nor its log, nor its model."""
    tuning = await start_tuning(OTHER)
    job_id = (await tuning.start())["id"]
    model = (await tuning.ended(job_id))["fine_tuned_model"]

    for path in ("", "/events", "/checkpoints"):
        hidden = await tuning.gateway.get(f"{JOBS}/{job_id}{path}", "other")
        assert 404 == hidden.status_code
    for verb in ("cancel", "pause"):
        hidden = await tuning.gateway.post(f"{JOBS}/{job_id}/{verb}", "other")
        assert 404 == hidden.status_code
    assert [] == (await tuning.gateway.get(JOBS, "other")).json()["data"]
    assert model not in await tuning.models("other")
    assert 404 == (await tuning.gateway.chat("other", model=model)).status_code
    assert 404 == (await tuning.create("other", model=model)).status_code
    training_file = (await tuning.show(job_id))["training_file"]
    assert (
        400 == (await tuning.create("other", training_file=training_file)).status_code
    )


async def test_nobody_comes_in_without_a_key(tuning: TuningHouse) -> None:
    for method in ("GET", "POST"):
        assert 401 == (await tuning.gateway.client.request(method, JOBS)).status_code
    assert 404 == (await tuning.gateway.get(f"{JOBS}/a/b")).status_code
