"""Idempotency-Key: the first is processed, later ones get its result."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.simulator.errors import SimulatorError
from gateway.simulator.idempotency import MAX_KEPT, MAX_KEPT_BYTES, IdempotencyStore
from gateway.simulator.replies import AnyReply, Reply
from gateway.simulator.stats import StatsBoard

from .harness import CHAT, MODEL, chat, simulated

FINE_TUNE = "/v1/fine-tune"
JOB = {"baseModel": MODEL, "dataset": "s3://data/set.jsonl"}
KEYED = {"idempotency-key": "one"}


async def test_repeated_key_returns_the_original_result() -> None:
    """One job is created, however often its creation is retried."""
    async with simulated() as (simulator, client):
        first = await client.post(FINE_TUNE, json=JOB, headers=KEYED)
        again = await client.post(FINE_TUNE, json=JOB, headers=KEYED)
        other = await client.post(FINE_TUNE, json=JOB)

    assert first.json() == again.json()
    assert first.json()["jobId"] != other.json()["jobId"]
    assert simulator.stats.replays == 1


async def test_key_with_another_body_is_an_error() -> None:
    """A key belongs to one body."""
    changed: dict[str, Any] = {**JOB, "trainingMethod": "dpo"}
    async with simulated() as (_, client):
        await client.post(FINE_TUNE, json=JOB, headers=KEYED)
        answer = await client.post(FINE_TUNE, json=changed, headers=KEYED)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "IDEMPOTENCY_KEY_REUSED"


async def test_keys_of_different_callers_are_apart() -> None:
    """Another API key may use the same Idempotency-Key."""
    stranger = {**KEYED, "authorization": "Bearer other"}
    async with simulated() as (_, client):
        first = await client.post(FINE_TUNE, json=JOB, headers=KEYED)
        other = await client.post(FINE_TUNE, json=JOB, headers=stranger)

    assert first.json()["jobId"] != other.json()["jobId"]


async def test_stream_is_replayed_from_its_start() -> None:
    """A repeated streaming request gets the same events again."""
    async with simulated() as (simulator, client):
        body = chat(stream=True)
        first = await client.post(CHAT, json=body, headers=KEYED)
        again = await client.post(CHAT, json=body, headers=KEYED)

    assert first.text == again.text
    assert simulator.stats.replays == 1


async def test_refused_request_leaves_its_key_unused() -> None:
    """What was never processed may be corrected and sent again."""
    async with simulated() as (_, client):
        refused = await client.post(
            FINE_TUNE, json={**JOB, "baseModel": "none"}, headers=KEYED
        )
        taken = await client.post(FINE_TUNE, json=JOB, headers=KEYED)

    assert (refused.status_code, taken.status_code) == (404, 200)


def test_store_forgets_the_oldest_above_its_count() -> None:
    """However many keys are used, only the newest are kept."""
    store, performed = IdempotencyStore(StatsBoard()), []

    def ask(key: int) -> AnyReply:
        def perform() -> AnyReply:
            performed.append(key)
            return Reply(b"{}")

        return store.once(("caller", "/path", str(key)), b"", perform)

    for key in [*range(MAX_KEPT + 1), MAX_KEPT, 0]:
        ask(key)

    assert performed == [*range(MAX_KEPT + 1), 0]


def test_store_forgets_the_oldest_above_its_bytes() -> None:
    """A few huge answers push each other out."""
    store = IdempotencyStore(StatsBoard())
    huge = Reply(bytes(MAX_KEPT_BYTES // 2 + 1))
    for key in ("first", "second"):
        store.once(("caller", "/path", key), b"", lambda: huge)

    small = Reply(b"{}")
    assert store.once(("caller", "/path", "second"), b"", lambda: small) is huge
    assert store.once(("caller", "/path", "first"), b"", lambda: small) is small


def test_store_keeps_nothing_of_a_failure() -> None:
    """An error while processing leaves the key free."""
    store = IdempotencyStore(StatsBoard())

    def fail() -> AnyReply:
        raise SimulatorError(500, "INTERNAL_ERROR", "no")

    with pytest.raises(SimulatorError):
        store.once(("caller", "/path", "key"), b"", fail)

    reply = Reply(b"{}")
    assert store.once(("caller", "/path", "key"), b"other", lambda: reply) is reply
