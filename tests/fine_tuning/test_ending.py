"""What follows the end of a fine-tune: it is told, and what LLMTune makes is hidden."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from gateway.background.caller import Caller
from gateway.fine_tuning.record import LOST_AFTER_S
from gateway.fine_tuning.urls import HANDED_OVER_S
from policies.jobs.port import JobsUnavailable
from tests.fine_tuning.test_driving import JOB, WORKSPACE, Bench, bench, sent
from tests.gateway_under_test import MODEL
from tests.upstream import ScriptedUpstream, whole

__all__ = ["bench"]

OTHER = "ws-other"


async def test_an_end_is_told_once_by_whoever_comes_after_a_death(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """What is told is what is kept, and nothing before it is kept."""
    await sent(bench, upstream)
    assert [] == bench.heard
    upstream.will_answer({**JOB, "status": "failed"})
    bench.is_away = True
    with pytest.raises(JobsUnavailable):
        await bench.look()
    assert "failed" == (await bench.record()).status
    bench.is_away = False

    for _ in range(2):
        assert await bench.look() is None

    assert ["failed"] == bench.heard


async def test_a_cancelled_job_is_told(bench: Bench) -> None:
    await bench.start()
    await bench.cancel()
    await bench.look()
    assert ["cancelled"] == bench.heard


async def test_the_model_of_a_cancelled_job_is_nobody_elses(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """LLMTune goes on with it, and lists it to all who share the gateway's key."""
    await sent(bench, upstream)
    await bench.cancel()
    upstream.will_answer({**JOB, "status": "running"})
    assert 30_000 == await bench.look()
    upstream.will_answer({**JOB, "status": "completed", "modelName": "ft/one"})

    assert await bench.look() is None

    assert bench.parts.owners.is_anothers(OTHER, "ft/one")
    assert not bench.parts.owners.is_anothers(WORKSPACE, "ft/one")
    assert "cancelled" == (await bench.record()).status


@pytest.mark.parametrize("way", ["cancelled", "succeeded"])
async def test_a_name_that_a_webhook_tells_after_the_end_is_nobody_elses(
    bench: Bench, upstream: ScriptedUpstream, way: str
) -> None:
    """One generation tells it by webhook alone."""
    await sent(bench, upstream)
    if way == "cancelled":
        await bench.cancel()
    upstream.will_answer({**JOB, "status": "completed", "modelName": "shown"})
    await bench.look()
    await bench.tell("model.deployed", modelId="ft/deployed")
    upstream.will_answer({**JOB, "status": "completed"})

    assert await bench.look() is None

    assert bench.parts.owners.is_anothers(OTHER, "ft/deployed")
    assert [] == await bench.parts.book.told(WORKSPACE, bench.job_id)


async def test_what_llmtune_takes_while_it_is_cancelled_is_watched_too(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await bench.start()
    goes_on = asyncio.Event()
    upstream.will(goes_on, whole(json.dumps(JOB).encode()))
    looking = asyncio.create_task(bench.look())
    await upstream.saw()
    await bench.cancel()
    goes_on.set()
    assert 0 == await looking

    upstream.will_answer({**JOB, "status": "completed", "modelName": "ft/one"})
    assert await bench.look() is None

    assert ("POST", "GET") == tuple(each.method for each in upstream.requests)
    assert bench.parts.owners.is_anothers(OTHER, "ft/one")


async def test_a_cancelled_job_is_not_watched_for_ever(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    await sent(bench, upstream)
    await bench.cancel()
    bench.time_s += LOST_AFTER_S
    upstream.will_answer({**JOB, "status": "running"})
    assert await bench.look() is None


async def test_a_job_that_llmtune_does_not_take_for_a_day_fails(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """Its file can be read no more, and a second job would be paid for."""
    await bench.start()
    upstream.will_answer({"error": {"message": "Down."}}, 500)
    assert await bench.look()
    bench.time_s += HANDED_OVER_S

    assert await bench.look() is None

    error = (await bench.record()).error
    assert error is not None
    assert "upstream_unavailable" == error.code
    assert 1 == len(upstream.requests)


async def test_a_job_whose_plan_is_gone_is_waited_for_and_then_fails(
    bench: Bench,
) -> None:
    await bench.start()
    held = await bench.parts.book.find(WORKSPACE, bench.job_id)
    assert held is not None
    held.record.caller = Caller(WORKSPACE, "gone", None)
    assert await bench.parts.book.save(held)
    assert 30_000 == await bench.look()
    bench.time_s += LOST_AFTER_S

    assert await bench.look() is None

    assert ["failed"] == bench.heard


async def test_numbers_that_no_reader_holds_harm_nobody(
    bench: Bench, upstream: ScriptedUpstream
) -> None:
    """They are left out, and the job goes on."""
    await sent(bench, upstream)
    huge = msgspec.Raw(b"1" + b"0" * 400)
    answer = {**JOB, "status": "running", "metrics": {"totalTokens": huge, "loss": 1.5}}
    upstream.will(whole(msgspec.json.encode(answer)))

    assert 30_000 == await bench.look()

    assert {"train_loss": 1.5} == (await bench.record()).metrics
    assert MODEL == (await bench.record()).model
