"""Batches from their file to their results, by whichever way their lines go."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.background.caller import Caller
from gateway.batches.driving import drive
from gateway.batches.record import KIND, BatchRecord, encode_batch
from gateway.simulator.faults import FaultKind
from policies.jobs.port import RecordName
from tests.batches.conftest import (
    ENDPOINT,
    ENDS_WITHIN_S,
    BatchHouse,
    StartHouse,
    ids_of,
    jsonl,
    line,
)
from tests.proofs.check import until


async def test_a_batch_is_run_to_its_end(house: BatchHouse) -> None:
    """LLMTune takes a hundred lines at a time, whatever the caller sends."""
    names = [f"line-{number}" for number in range(250)]

    started = await house.start([line(name) for name in names], metadata={"a": "b"})
    ended = await house.ended(started["id"])

    assert "validating" == started["status"]
    assert ("completed", {"a": "b"}) == (ended["status"], ended["metadata"])
    assert {"total": 250, "completed": 250, "failed": 0} == ended["request_counts"]
    assert ended["error_file_id"] is None
    results = await house.results(ended)
    assert sorted(names) == sorted(ids_of(results))
    answer = results[0]["response"]
    assert answer["status_code"] == 200
    assert "chat.completion" == answer["body"]["object"]
    assert answer["body"]["choices"][0]["message"]["content"]
    tokens = [each["response"]["body"]["usage"]["total_tokens"] for each in results]
    assert sum(tokens) == ended["usage"]["total_tokens"]
    assert {"/v1/batch/inference": 3} == dict(house.llmtune.stats.requests)


@pytest.mark.parametrize("generation", [1, 2, 3])
@pytest.mark.parametrize("how", ["batch", "item"])
async def test_webhooks_of_every_generation_bring_results(
    start_house: StartHouse, generation: int, how: str
) -> None:
    """In one post, or in one each."""
    knobs = {"webhook_generation": generation, "batch_webhook": how}
    house = await start_house(knobs=knobs)

    started = await house.start([line(str(number)) for number in range(5)])
    ended = await house.ended(started["id"])

    assert "completed" == ended["status"]
    assert ["0", "1", "2", "3", "4"] == sorted(ids_of(await house.results(ended)))


async def test_what_the_batch_route_cannot_carry_goes_by_itself(
    house: BatchHouse,
) -> None:
    """And every line has its result once, whichever way it went."""
    plain = [line(f"plain-{number}") for number in range(3)]
    bounded = [line(f"bounded-{number}", max_tokens=5) for number in range(3)]

    started = await house.start([*plain, *bounded])
    ended = await house.ended(started["id"])

    results = await house.results(ended)
    assert sorted(ids_of([*plain, *bounded])) == sorted(ids_of(results))
    of_bounded = [each for each in results if each["custom_id"].startswith("bounded")]
    for each in of_bounded:
        assert 5 >= each["response"]["body"]["usage"]["completion_tokens"]


async def test_without_webhooks_every_line_goes_by_itself(
    start_house: StartHouse,
) -> None:
    """A laptop that LLMTune cannot reach runs batches, too."""
    house = await start_house(public_url=None)

    started = await house.start([line(str(number)) for number in range(5)])
    ended = await house.ended(started["id"])

    assert {"total": 5, "completed": 5, "failed": 0} == ended["request_counts"]


async def test_a_line_that_fails_is_told_in_the_error_file(
    start_house: StartHouse,
) -> None:
    """As the call alone would have been."""
    house = await start_house(knobs={"faults": {FaultKind.CREDITS: 1.0}})

    started = await house.start([line("poor", max_tokens=5)])
    ended = await house.ended(started["id"])

    assert {"total": 1, "completed": 0, "failed": 1} == ended["request_counts"]
    assert ended["output_file_id"] is None
    (told,) = await house.lines_of(ended["error_file_id"])
    assert 402 == told["response"]["status_code"]
    assert "insufficient_credits" == told["response"]["body"]["error"]["code"]


async def test_webhooks_that_never_come_are_waited_for_no_longer(
    start_house: StartHouse,
) -> None:
    """Sent anew, and at last one by one."""
    house = await start_house(
        knobs={"webhook_secret": "whsec_of_somebody_else"}, batch_result_timeout_s=0.1
    )

    started = await house.start([line(str(number)) for number in range(3)])
    ended = await house.ended(started["id"])

    assert {"total": 3, "completed": 3, "failed": 0} == ended["request_counts"]
    assert ["0", "1", "2"] == sorted(ids_of(await house.results(ended)))


async def test_a_cancelled_batch_keeps_what_was_answered(
    start_house: StartHouse,
) -> None:
    """And says of every other line that it was not run."""
    house = await start_house(knobs={"tokens_per_second": 2})
    lines = [line(f"slow-{number}", max_tokens=50) for number in range(20)]
    started = await house.start(lines)

    cancelling = await house.gateway.post(f"/v1/batches/{started['id']}/cancel")
    ended = await house.ended(started["id"])

    assert cancelling.json()["status"] in {"cancelling", "cancelled"}
    assert "cancelled" == ended["status"]
    results = await house.results(ended)
    assert sorted(ids_of(lines)) == sorted(ids_of(results))
    assert any(
        (each["error"] or {}).get("code") == "batch_cancelled" for each in results
    )


async def test_webhooks_go_astray_and_every_line_has_its_result_once(
    start_house: StartHouse,
) -> None:
    """Dropped, doubled and overtaken: what was answered twice is charged once."""
    house = await start_house(
        {"metered": "plan: metered\nquotas: [{of: requests, limit: 9999, per: month}]"},
        knobs={
            "webhook_drop": 0.2,
            "webhook_double": 0.2,
            "webhook_late": 0.2,
            "webhook_late_ms": 300,
            "batch_webhook": "item",
        },
        batch_result_timeout_s=1.0,
    )
    names = [str(number) for number in range(300)]

    started = await house.start([line(name) for name in names], "metered")
    ended = await house.ended(started["id"], "metered")

    assert {"total": 300, "completed": 300, "failed": 0} == ended["request_counts"]
    results = await house.results(ended, "metered")
    assert sorted(names) == sorted(ids_of(results))
    assert {"requests-per-calendar-month": 300} == await house.gateway.used("metered")


@pytest.mark.parametrize(
    ("wrong", "code", "number"),
    [
        (b"{", "invalid_json_line", 2),
        (b"[]", "invalid_json_line", 2),
        (jsonl([line("first")]), "duplicate_custom_id", 2),
        (jsonl([line("")]), "invalid_request", 2),
        (jsonl([{**line("x"), "method": "GET"}]), "invalid_method", 2),
        (jsonl([{**line("x"), "url": "/v1/completions"}]), "mismatched_url", 2),
        (jsonl([line("x", stream=True)]), "invalid_request", 2),
        (jsonl([line("x", temperature="hot")]), "invalid_request_body", 2),
        (jsonl([{**line("x"), "body": {}}]), "invalid_request_body", 2),
    ],
)
async def test_a_wrong_line_is_named_by_its_number(
    house: BatchHouse, wrong: bytes, code: str, number: int
) -> None:
    """And nothing of the file is run."""
    uploaded = await house.upload(jsonl([line("first")]) + wrong)
    created = await house.gateway.post(
        "/v1/batches",
        input_file_id=uploaded.json()["id"],
        endpoint=ENDPOINT,
        completion_window="24h",
    )
    ended = await house.ended(created.json()["id"])

    assert "failed" == ended["status"]
    (error,) = ended["errors"]["data"]
    assert (code, number) == (error["code"], error["line"])
    assert error["message"]
    assert not house.llmtune.stats.requests


async def test_an_empty_file_is_no_batch(house: BatchHouse) -> None:
    started = await house.start([])
    ended = await house.ended(started["id"])
    assert "empty_file" == ended["errors"]["data"][0]["code"]


async def test_a_model_outside_the_plan_is_refused(start_house: StartHouse) -> None:
    house = await start_house({"small": "plan: small\nmodels: [llmtune-mini]\n"})
    started = await house.start([line("a")], "small")
    ended = await house.ended(started["id"], "small")
    assert "model_not_found" == ended["errors"]["data"][0]["code"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_file_id": "file-none"}, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
async def test_a_wrong_request_is_a_400_that_names_the_parameter(
    house: BatchHouse, fields: dict[str, object], param: str
) -> None:
    file_id = (await house.upload(jsonl([line("a")]))).json()["id"]
    good = {
        "input_file_id": file_id,
        "endpoint": ENDPOINT,
        "completion_window": "24h",
    }
    refused = await house.gateway.post("/v1/batches", **(good | fields))
    assert 400 == refused.status_code
    assert refused.json()["error"]["param"].startswith(param)


async def test_a_file_for_something_else_is_no_input(house: BatchHouse) -> None:
    uploaded = await house.upload(jsonl([line("a")]), purpose="fine-tune")
    refused = await house.gateway.post(
        "/v1/batches",
        input_file_id=uploaded.json()["id"],
        endpoint=ENDPOINT,
        completion_window="24h",
    )
    assert "input_file_id" == refused.json()["error"]["param"]


async def test_a_brought_key_runs_no_batch(start_house: StartHouse) -> None:
    """It is kept nowhere, and a batch goes on when its caller has left."""
    house = await start_house(upstream_api_key=None)
    uploaded = await house.upload(jsonl([line("a")]))
    refused = await house.gateway.post(
        "/v1/batches",
        input_file_id=uploaded.json()["id"],
        endpoint=ENDPOINT,
        completion_window="24h",
    )
    assert 400 == refused.status_code


class TestPlans:
    """Batches wait for their limits, and leave the others theirs."""

    async def test_more_lines_than_the_plan_has_are_refused(
        self, start_house: StartHouse
    ) -> None:
        house = await start_house({"few": "plan: few\nbatch: {max_lines: 3}\n"})
        started = await house.start([line(str(n)) for n in range(4)], "few")
        ended = await house.ended(started["id"], "few")
        assert "too_many_requests" == ended["errors"]["data"][0]["code"]

    async def test_a_batch_larger_than_what_may_be_enqueued_goes_in_part(
        self, start_house: StartHouse
    ) -> None:
        """At no time is more under way, and in the end all was run."""
        plan = "plan: narrow\nbatch: {enqueued_tokens: 60000, concurrent_batches: 1}\n"
        house = await start_house({"narrow": plan}, knobs={"batch_ms": 100})

        first = await house.start([line(f"a{n}") for n in range(300)], "narrow")
        second = await house.start([line(f"b{n}") for n in range(100)], "narrow")
        for batch in (first, second):
            ended = await house.ended(batch["id"], "narrow")
            assert (
                ended["request_counts"]["completed"] == ended["request_counts"]["total"]
            )

    async def test_a_minutes_window_is_not_a_batchs_limit(
        self, start_house: StartHouse
    ) -> None:
        """A hundred lines on a plan of twenty requests a minute."""
        plan = "plan: slow\nrates: [{of: requests, limit: 20, per: minute}]\n"
        house = await start_house({"slow": plan})

        started = await house.start([line(str(n)) for n in range(100)], "slow")
        ended = await house.ended(started["id"], "slow")

        assert 100 == ended["request_counts"]["completed"]
        assert {"requests-per-minute": 0} == await house.gateway.used("slow")

    async def test_single_lines_leave_half_of_every_limit(
        self, start_house: StartHouse
    ) -> None:
        """Whoever waits for an answer finds room."""
        plan = "plan: slow\nrates: [{of: requests, limit: 20, per: day}]\n"
        house = await start_house({"slow": plan})
        lines = [line(str(n), max_tokens=5) for n in range(15)]

        started = await house.start(lines, "slow")

        async def half() -> bool:
            return (await house.gateway.used("slow"))["requests-per-day"] >= 10

        await until(half, "half of the limit to be used", within_s=ENDS_WITHIN_S)
        assert 200 == (await house.gateway.chat("slow")).status_code
        shown = await house.show(started["id"], "slow")
        assert "in_progress" == shown["status"]
        used = await house.gateway.used("slow")
        assert used["requests-per-day"] <= 14


class TestKeys:
    """A retry under an Idempotency-Key finds what the first one has made."""

    async def create(self, house: BatchHouse, file_id: str, **fields: object) -> Any:
        wanted = {
            "input_file_id": file_id,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
        }
        headers = {**house.gateway.auth(), "idempotency-key": "nightly"}
        return await house.client.post(
            "/v1/batches", json=wanted | fields, headers=headers
        )

    async def test_one_batch_is_made_however_often_it_is_asked_for(
        self, house: BatchHouse
    ) -> None:
        file_id = (await house.upload(jsonl([line("a")]))).json()["id"]

        made = [await self.create(house, file_id) for _ in range(3)]

        assert 1 == len({each.json()["id"] for each in made})
        listed = (await house.gateway.get("/v1/batches")).json()["data"]
        assert 1 == len(listed)

    async def test_something_else_under_the_same_key_is_refused(
        self, house: BatchHouse
    ) -> None:
        file_id = (await house.upload(jsonl([line("a")]))).json()["id"]
        await self.create(house, file_id)

        refused = await self.create(house, file_id, metadata={"a": "b"})

        assert (422, "idempotency_key_reused") == (
            refused.status_code,
            refused.json()["error"]["code"],
        )


class TestLost:
    """What cannot go on waits while it may come right, and then ends."""

    async def test_a_batch_whose_files_are_gone_ends_with_its_day(
        self, start_house: StartHouse
    ) -> None:
        house = await start_house(knobs={"batch_ms": 60_000})
        long_jobs = house.gateway.gateway.long_jobs
        assert long_jobs is not None
        started = await house.start([line("a")])
        await house.becomes(started["id"], ("in_progress",))
        async for key in long_jobs.storage.list("batches"):
            await long_jobs.storage.delete(key)
        tomorrow_s = started["expires_at"] + 1
        parts = msgspec.structs.replace(long_jobs.parts, now_s=lambda: tomorrow_s)

        assert await drive(parts, f"ws-open {started['id']}") is None

        ended = await house.show(started["id"])
        assert "failed" == ended["status"]
        assert "batch_lost" == ended["errors"]["data"][0]["code"]

    async def test_a_batch_whose_plan_is_gone_ends_with_its_day(
        self, house: BatchHouse
    ) -> None:
        long_jobs = house.gateway.gateway.long_jobs
        assert long_jobs is not None
        parts = long_jobs.parts
        record = BatchRecord(
            id="batch_without_a_plan",
            caller=Caller("ws-open", "gone"),
            endpoint="/v1/chat/completions",
            input_file_id="file-1",
            created_at=0,
            expires_at=int(parts.now_s()) + 60,
        )
        name = RecordName("ws-open", KIND, record.id)
        await parts.jobs.create(name, encode_batch(record), 600_000)

        assert await drive(parts, f"ws-open {record.id}") is not None
        late = msgspec.structs.replace(parts, now_s=lambda: record.expires_at)
        assert await drive(late, f"ws-open {record.id}") is None

        ended = await house.show(record.id)
        assert "plan_not_found" == ended["errors"]["data"][0]["code"]
