"""Fine-tuning, from a training file to a chat with the new model."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import time

from openai import BadRequestError

from tests.clients.python.scenario import (
    HELLO,
    MODEL,
    ask,
    caught,
    connect,
    same,
    scenario,
)

EXAMPLE = {"messages": [*HELLO, {"role": "assistant", "content": "Hello."}]}
ENDS_WITHIN_S = 20.0


@scenario
def fine_tune() -> None:
    client = connect()
    content = "\n".join([json.dumps(EXAMPLE)] * 10).encode()
    file = client.files.create(file=("train.jsonl", content), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file.id,
        suffix="mine",
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2}},
        },
    )

    until_s = time.monotonic() + ENDS_WITHIN_S
    while job.status not in {"succeeded", "failed"} and time.monotonic() < until_s:
        time.sleep(0.1)
        job = client.fine_tuning.jobs.retrieve(job.id)

    same("succeeded", job.status)
    tuned = job.fine_tuned_model
    assert tuned in [model.id for model in client.models.list()]
    answer = ask(client, model=tuned)
    same(tuned, answer.model)
    assert answer.choices[0].message.content
    assert job.id in [each.id for each in client.fine_tuning.jobs.list(limit=1)]
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert any(event.type == "metrics" for event in events)


@scenario
def fine_tune_refused() -> None:
    client = connect()

    error = caught(
        BadRequestError,
        client.fine_tuning.jobs.create,
        model=MODEL,
        training_file="file-none",
    )

    same("training_file", error.param)
