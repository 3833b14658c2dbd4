"""One look at a fine-tune after another, with a clock and an LLMTune of the test's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.batches.planning import once
from gateway.files.service import FileService
from gateway.fine_tuning.driving import NAME_WITHIN_S, drive
from gateway.fine_tuning.keeping import QUEUE, TuneBook
from gateway.fine_tuning.owners import Owners
from gateway.fine_tuning.parts import TuneParts
from gateway.fine_tuning.record import LOST_AFTER_S, TuneRecord
from gateway.fine_tuning.request import TuneRequest
from gateway.fine_tuning.seeing import TuneEvent, encode_event
from gateway.fine_tuning.service import TuneService
from gateway.fine_tuning.urls import TuneUrls
from gateway.secret import Secret
from gateway.storage.local import LocalStorage
from gateway.upstream.reading import read_fine_tune
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobsUnavailable
from tests.batches.conftest import jsonl
from tests.fine_tuning.conftest import EXAMPLE
from tests.gateway_under_test import MODEL, GatewayUnderTest
from tests.upstream import ScriptedUpstream

WORKSPACE = "ws-open"
JOB = {"jobId": "ft_1", "baseModel": MODEL, "status": "queued"}


class Bench:
    """A driver whose every look is asked for."""

    def __init__(self, gateway: GatewayUnderTest, folder: Path) -> None:
        self.time_s = 1_800_000_000.0
        self.storage = LocalStorage(folder)
        self.jobs = jobs = MemoryJobs(lambda: int(self.time_s * 1000))
        self._gateway = gateway
        self.parts = TuneParts(
            book=TuneBook(jobs),
            files=FileService(jobs, self.storage, now_s=lambda: self.time_s),
            owners=Owners(jobs),
            urls=TuneUrls("https://gw.example", Secret("whsec_x"), now_s=self.now_s),
            upstream=gateway.gateway.upstream,
            read_job=partial(read_fine_tune, gateway.gateway.transport),
            authenticator=gateway.gateway.authenticator,
            poll_s=30.0,
            ended=self.hear,
            now_s=self.now_s,
        )
        admission = gateway.gateway.admission
        self.service = TuneService(self.parts, admission, nudge=lambda: None)
        self.job_id = ""
        self.heard: list[str] = []
        self.is_away = False

    async def hear(self, record: TuneRecord) -> None:
        if self.is_away:
            raise JobsUnavailable
        self.heard.append(record.status)

    def now_s(self) -> float:
        return self.time_s

    async def start(self, content: bytes | None = None) -> None:
        file = await self.parts.files.create(
            WORKSPACE,
            once(jsonl([EXAMPLE]) if content is None else content),
            filename="train.jsonl",
            purpose="fine-tune",
        )
        principal = self._gateway.gateway.authenticator.vouched(WORKSPACE, "open")
        assert principal is not None
        request = TuneRequest(model=MODEL, training_file=file.id)
        self.job_id = (await self.service.create(principal, request))["id"]

    async def look(self) -> int | None:
        """One look; in how many ms to look again."""
        return await drive(self.parts, f"{WORKSPACE} {self.job_id}")

    async def record(self) -> TuneRecord:
        held = await self.parts.book.find(WORKSPACE, self.job_id)
        assert held is not None
        return held.record

    async def cancel(self) -> str:
        """The last word of its log."""
        await self.service.cancel(WORKSPACE, self.job_id)
        return (await self.record()).events[-1].message

    async def tell(self, kind: str, **data: Any) -> bool:
        raw = encode_event(TuneEvent(kind, data))
        return await self.parts.book.tell(WORKSPACE, self.job_id, kind, raw)


@pytest.fixture
async def bench(gateway: GatewayUnderTest, tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(gateway, tmp_path / "files")
    yield bench
    await bench.storage.aclose()


async def test_what_is_cancelled_before_it_is_sent_is_never_sent(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await bench.start()
    assert "before it was sent" in await bench.cancel()
    assert await bench.look() is None
    assert not upstream.requests


async def test_what_is_cancelled_while_it_is_sent_may_be_finished(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """Nobody can tell whether LLMTune has it, so the log says that it may."""
    await bench.start()
    upstream.will_answer({"error": {"message": "down"}}, 500)
    await bench.look()

    assert "may finish" in await bench.cancel()
    assert await bench.look() is None
    assert 1 == len(upstream.requests)


async def test_a_driver_that_dies_in_the_middle_creates_one_job(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """The next sends the same under the same key, to the byte."""
    await bench.start()
    upstream.will("cut")
    await bench.look()
    bench.time_s += 3600
    upstream.will_answer(JOB, 201)

    assert 30_000 == await bench.look()

    first, second = upstream.requests
    assert bench.job_id == first.headers["idempotency-key"]
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body
    assert "ft_1" == (await bench.record()).upstream_id


@pytest.mark.parametrize("status", [402, 400, 404, 422])
async def test_what_llmtune_refuses_for_good_fails(
    bench: Bench, upstream: ScriptedUpstream, status: int
) -> None:
    await bench.start()
    upstream.will_answer({"error": {"message": "No.", "code": "BAD"}}, status)
    assert await bench.look() is None
    record = await bench.record()
    assert "failed" == record.status
    assert record.error is not None
    assert record.error.message


@pytest.mark.parametrize("status", [401, 409, 429, 500])
async def test_what_passes_is_waited_for(
    bench: Bench, upstream: ScriptedUpstream, status: int
) -> None:
    await bench.start()
    for _ in range(2):
        upstream.will_answer({"error": {"message": "Later."}}, status)
    assert await bench.look()
    assert "queued" == (await bench.record()).status


async def sent(bench: Bench, upstream: ScriptedUpstream) -> None:
    """A job that LLMTune has."""
    await bench.start()
    upstream.will_answer(JOB)
    await bench.look()


async def test_a_webhook_tells_the_name_that_the_answer_does_not(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """One generation shows no `modelName`; the deployed one's is what answers."""
    await sent(bench, upstream)
    await bench.tell("training.completed", jobId="ft_1", modelName="shown name")
    await bench.tell("model.deployed", modelId="ft/one", deploymentId="d")
    upstream.will_answer({**JOB, "status": "completed"})

    assert await bench.look() is None

    record = await bench.record()
    assert ("succeeded", "ft/one") == (record.status, record.model_name)
    owned = await bench.parts.owners.models_of(WORKSPACE)
    assert ["ft/one"] == [model.id for model in owned]


async def test_webhooks_alone_are_enough(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """Where LLMTune does not show jobs."""
    await sent(bench, upstream)
    await bench.tell("training.failed", jobId="ft_1", error={"message": "Too short."})
    upstream.will_answer({"error": {"message": "no such route"}}, 404)

    assert await bench.look() is None

    record = await bench.record()
    assert record.error is not None
    assert "Too short." == record.error.message


async def test_a_webhook_that_is_late_takes_nothing_back(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await sent(bench, upstream)
    upstream.will_answer({**JOB, "status": "running"})
    await bench.look()
    assert await bench.tell("training.started", jobId="ft_1")
    assert not await bench.tell("training.started", jobId="ft_1")
    upstream.will_answer({**JOB, "status": "queued"})
    await bench.look()
    assert "running" == (await bench.record()).status


async def test_the_base_models_name_is_no_new_models(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """One generation says `modelName` of it, and it stays everybody's."""
    await sent(bench, upstream)
    upstream.will_answer({"jobId": "ft_1", "status": "running", "modelName": MODEL})
    await bench.look()
    assert (await bench.record()).model_name is None
    assert not bench.parts.owners.is_anothers("ws-other", MODEL)


async def test_a_name_that_nobody_tells_is_waited_for_no_longer(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await sent(bench, upstream)
    upstream.will_answer({**JOB, "status": "completed"})
    assert 30_000 == await bench.look()
    bench.time_s += NAME_WITHIN_S
    upstream.will_answer({**JOB, "status": "completed"})

    assert await bench.look() is None

    shown = (await bench.record()).shown()
    assert ("succeeded", None) == (shown["status"], shown["fine_tuned_model"])


async def test_a_job_that_is_never_heard_of_again_fails(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await sent(bench, upstream)
    bench.time_s += LOST_AFTER_S + 1
    upstream.will_answer({**JOB, "status": "queued"})
    assert await bench.look() is None
    error = (await bench.record()).error
    assert error is not None
    assert "job_lost" == error.code


@pytest.mark.parametrize(
    "odd",
    [b"[]", b"{", b'{"status": 5, "metrics": [1], "error": 3}', b'{"status": "odd"}'],
)
async def test_answers_of_no_known_form_harm_nobody(
    bench: Bench, upstream: ScriptedUpstream, odd: bytes
) -> None:
    await sent(bench, upstream)
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(odd)
    upstream.will(head + odd)
    assert 30_000 == await bench.look()
    assert "queued" == (await bench.record()).status


async def test_a_file_that_is_gone_fails_the_job(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await bench.start()
    await bench.parts.files.delete(WORKSPACE, (await bench.record()).training_file)
    assert await bench.look() is None
    error = (await bench.record()).error
    assert error is not None
    assert "training_file" == error.param


async def test_a_replica_that_takes_over_finds_the_work(bench: Bench) -> None:
    """It is due until somebody ends it."""
    await bench.start()
    claimed = await bench.jobs.claim(QUEUE, "one", lease_ms=1000, most=5)
    bench.time_s += 2
    taken = await bench.jobs.claim(QUEUE, "two", lease_ms=1000, most=5)
    assert [f"{WORKSPACE} {bench.job_id}"] == list(claimed) == list(taken)


async def test_what_is_sent_is_what_llmtune_takes(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """No hyperparameter that nobody chose."""
    await sent(bench, upstream)
    body = upstream.requests[0].json
    assert {"baseModel", "dataset", "trainingMethod", "webhookUrl"} == body.keys()
    assert body["webhookUrl"].startswith("https://gw.example/webhooks/llmtune?tune=")
    assert body["dataset"].endswith("/train.jsonl")


async def test_the_handed_over_file_is_the_callers_for_a_day(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await sent(bench, upstream)
    token = httpx.URL(upstream.requests[0].json["dataset"]).path.split("/")[-2]

    handover = bench.parts.urls.handover_of(token)
    assert handover is not None
    assert (WORKSPACE, (await bench.record()).training_file) == (
        handover.workspace,
        handover.file_id,
    )
    bench.time_s += 86_400
    assert bench.parts.urls.handover_of(token) is None
