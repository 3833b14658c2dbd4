"""Files and batches."""

# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import json
import time
from typing import Any

from openai import NotFoundError, OpenAI

from tests.clients.python.scenario import HELLO, MODEL, caught, connect, same, scenario

ENDPOINT = "/v1/chat/completions"
# A fault for the asking, as documented in docs/simulator.md.
PENNILESS = "simulator/credits"
LINES = 1000
LOOK_EVERY_S = 0.1
ENDS_WITHIN_S = 30.0


def line(custom_id: str, **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "messages": HELLO, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}


def start(client: OpenAI, lines: list[dict[str, Any]]) -> Any:
    content = "\n".join(json.dumps(each) for each in lines).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id,
        endpoint=ENDPOINT,
        completion_window="24h",
        metadata={"suite": "clients"},
    )


def ended(client: OpenAI, batch_id: str) -> Any:
    until_s = time.monotonic() + ENDS_WITHIN_S
    while time.monotonic() < until_s:
        batch = client.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            return batch
        time.sleep(LOOK_EVERY_S)
    raise AssertionError(f"{batch_id} did not end")


@scenario
def files() -> None:
    client = connect()
    content = bytes(range(256)) * 1000

    made = client.files.create(file=("a.bin", content), purpose="batch")

    same((len(content), "a.bin", "file"), (made.bytes, made.filename, made.object))
    same(made, client.files.retrieve(made.id))
    same(content, client.files.content(made.id).read())
    assert made.id in [each.id for each in client.files.list(limit=1)]
    assert client.files.delete(made.id).deleted
    error = caught(NotFoundError, client.files.retrieve, made.id)
    same("not_found", error.code)


@scenario
def batch() -> None:
    client = connect()
    names = [f"line-{number}" for number in range(LINES)]
    # One in fifty says what LLMTune's batch route does not carry.
    lines = [
        line(name, **({"max_tokens": 9} if number % 50 == 0 else {}))
        for number, name in enumerate(names)
    ]

    done = ended(client, start(client, lines).id)

    same("completed", done.status)
    counts = done.request_counts
    same((LINES, LINES, 0), (counts.total, counts.completed, counts.failed))
    same("clients", done.metadata["suite"])
    text = client.files.content(done.output_file_id).text
    results = [json.loads(each) for each in text.splitlines()]
    same(sorted(names), sorted(each["custom_id"] for each in results))
    for each in results:
        assert each["response"]["body"]["choices"][0]["message"]["content"]


@scenario
def batch_error_file() -> None:
    client = connect()
    lines = [line("good", max_tokens=9), line("poor", model=PENNILESS, max_tokens=9)]

    done = ended(client, start(client, lines).id)

    same("completed", done.status)
    counts = done.request_counts
    same((2, 1, 1), (counts.total, counts.completed, counts.failed))
    (good,) = map(json.loads, client.files.content(done.output_file_id).iter_lines())
    same("good", good["custom_id"])
    errors = client.files.retrieve(done.error_file_id)
    text = client.files.content(errors.id).text
    same(errors.bytes, len(text.encode()))
    (poor,) = map(json.loads, text.splitlines())
    same(("poor", 402), (poor["custom_id"], poor["response"]["status_code"]))
    same("insufficient_credits", poor["response"]["body"]["error"]["code"])


@scenario
def batch_wrong_line() -> None:
    client = connect()

    failed = ended(client, start(client, [line("a"), line("a")]).id)

    same("failed", failed.status)
    (error,) = failed.errors.data
    same(("duplicate_custom_id", 2), (error.code, error.line))


@scenario
def batch_cancel() -> None:
    client = connect()
    made = [start(client, [line(str(n), n=2) for n in range(200)]) for _ in range(3)]

    for each in made:
        client.batches.cancel(each.id)

    states = {ended(client, each.id).status for each in made}
    assert states <= {"cancelled", "completed"}, states
    listed = [each.id for each in client.batches.list(limit=2)]
    assert {each.id for each in made} <= set(listed)
