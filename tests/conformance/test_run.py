"""Runs against real gateways: good ones pass, and each fault is found."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from gateway.conformance.deployment import Unusable
from gateway.conformance.report import Report
from policies.ledger import Demand, Usage
from policies.memory_ledger import MemoryLedger
from tests.conformance.ledgers import (
    DistantLedger,
    ForgetfulLedger,
    LeakingLedger,
    MisleadingLedger,
    OverchargingLedger,
    RacingLedger,
    StingyLedger,
    wall_clock_us,
)
from tests.conformance.replicas import BRIEF, PACED, failed, found, measured, replicas
from tests.gateway_under_test import GatewayUnderTest, until
from tests.servers.redis_server import RedisServer

# Runs until one could judge: alone on a machine the first does.
TRIES: Final = 6
pytestmark = pytest.mark.timeout(240)

# Both buckets and the streams are filled, so nothing that can be reached is skipped.
REACHED: Final = ("requests-per-second", "tokens-per-second", "concurrency")


async def conclusive(gateways: list[GatewayUnderTest]) -> Report:
    """
    A run in which everything was reached.

    One on a machine that is busy with something else may honestly skip a dimension.
    """
    for _ in range(TRIES):
        report = await measured(gateways)
        verdicts = [found(report, "over-admission", each).verdict for each in REACHED]
        if "skipped" not in verdicts:
            return report
    raise AssertionError(f"{TRIES} runs skipped what can be reached")


async def test_replicas_that_share_a_ledger_pass_every_check(tmp_path: Path) -> None:
    """A limiter that is exact is told so, with every figure at its bound."""
    async with replicas(tmp_path, 2, ledger=DistantLedger(wall_clock_us)) as both:
        report = await conclusive(both)

    assert set() == failed(report)
    # Only the quotas, which nobody fills unasked, are left unproven.
    assert {"locks-out", "too-costly"} >= set(report.not_judged)
    assert (3, "incomplete") == (report.exit_code, report.verdict)
    for dimension in REACHED:
        assert found(report, "over-admission", dimension).verdict == "pass"
        assert found(report, "under-admission", dimension).verdict == "pass"
        assert found(report, "agreement", dimension).verdict == "pass"
    assert found(report, "leaked-leases", "concurrency").verdict == "pass"
    assert found(report, "header-truth", "retry-after-ms").verdict == "pass"
    assert found(report, "header-truth", "preview").verdict == "pass"
    assert found(report, "settlement", "tokens-per-calendar-month").figure == 0


async def test_replicas_that_count_for_themselves_fail(tmp_path: Path) -> None:
    """The commonest fault, N times the plan, is found in every dimension."""
    async with replicas(tmp_path, 2) as strangers:
        report = await measured(
            strangers, only=["over-admission", "agreement"], seconds=30
        )

    assert report.exit_code == 1
    assert failed(report) >= {
        *(("over-admission", dimension) for dimension in REACHED),
        ("agreement", "concurrency"),
        ("agreement", "tokens-per-calendar-month"),
    }
    assert found(report, "over-admission", "concurrency").figure == 3


async def test_each_fault_is_found_by_its_check(tmp_path: Path) -> None:
    """What other limiters got wrong, one at a time; together, to save time."""
    faults: dict[str, tuple[MemoryLedger, str, str]] = {
        "leaking": (LeakingLedger(), "leaked-leases", "concurrency"),
        "overcharging": (
            OverchargingLedger(wall_clock_us),
            "settlement",
            "tokens-per-calendar-month",
        ),
        "stingy": (
            StingyLedger(wall_clock_us),
            "under-admission",
            "requests-per-second",
        ),
        "short": (MisleadingLedger(0.3), "header-truth", "retry-after-ms"),
        "long": (MisleadingLedger(3.0), "header-truth", "retry-after-ms"),
    }

    async def run(name: str) -> str:
        ledger, check, subject = faults[name]
        home = tmp_path / name
        home.mkdir()
        async with replicas(home, 1, PACED, ledger=ledger) as gateways:
            verdict = "skipped"
            # A busy machine may leave too little to judge by.
            for _ in range(TRIES):
                report = await measured(gateways, only=[check])
                verdict = found(report, check, subject).verdict
                if isinstance(ledger, LeakingLedger):
                    await ledger.mend()
                if verdict == "FAIL":
                    break
            return verdict

    verdicts = await asyncio.gather(*map(run, faults))

    assert dict(zip(faults, verdicts, strict=True)) == dict.fromkeys(faults, "FAIL")


async def test_race_between_reading_and_writing_is_found(tmp_path: Path) -> None:
    """By luck, as races are, and within a few runs on a busy machine."""
    for number in range(TRIES):
        home = tmp_path / str(number)
        home.mkdir()
        ledger = RacingLedger(wall_clock_us)
        async with replicas(home, 1, PACED, ledger=ledger) as gateways:
            report = await measured(gateways, only=["over-admission"])
        if found(report, "over-admission", "concurrency").verdict == "FAIL":
            return
    raise AssertionError(f"{TRIES} runs saw no race")


async def test_replicas_on_one_redis_pass(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    """Limits are exact across replicas, as the README promises."""
    async with replicas(tmp_path, 2, store_url=redis_server.url) as both:
        report = await conclusive(both)

    assert set() == failed(report)
    for dimension in REACHED:
        assert found(report, "over-admission", dimension).verdict == "pass"


async def test_a_quota_is_filled_when_that_is_allowed(tmp_path: Path) -> None:
    """It is exact too; finding out locks the workspace out until the window ends."""
    plan = "plan: small\nquotas: [{of: requests, limit: 30, per: month}]\n"
    only = ["over-admission", "under-admission"]
    async with replicas(tmp_path, 1, plan) as (gateway,):
        report = await measured([gateway], only=only, fill_quotas=True)
        used = await gateway.used("small")

    dimension = "requests-per-calendar-month"
    assert {dimension: 30} == used
    assert found(report, "over-admission", dimension).verdict == "pass"
    assert found(report, "under-admission", dimension).verdict == "pass"


async def test_a_limit_too_large_to_reach_is_skipped_with_its_reason(
    tmp_path: Path,
) -> None:
    """Nobody's bill is risked for a figure, and nobody is locked out by default."""
    plan = """
plan: small
concurrency: 500
rates: [{of: requests, limit: 90000, per: minute}]
quotas: [{of: tokens, limit: 2000000, per: month}, {of: requests, limit: 30, per: day}]
"""
    async with replicas(tmp_path, 1, plan) as (gateway,):
        report = await measured([gateway], only=["over-admission"])

    reasons = {finding.subject: finding.reason for finding in report.checks}
    assert "90,000 requests" in reasons["requests-per-minute"]
    assert "--concurrency" in reasons["concurrency"]
    assert (
        "filling a quota of 2,000,000 tokens a month takes more than"
        " --unsafe-tokens 30,000" == reasons["tokens-per-calendar-month"]
    )
    assert "locks the workspace out" in reasons["requests-per-calendar-day"]
    assert {"too-costly": 2, "locks-out": 1, "too-many-streams": 1} == report.not_judged
    assert report.requests_sent < 10


async def test_other_traffic_is_noticed_and_excuses_what_it_could_spoil(
    tmp_path: Path,
) -> None:
    """A shared workspace gets no false alarm."""
    async with replicas(tmp_path, 1) as (gateway,):

        async def use_it_too() -> None:
            while True:
                await gateway.chat("small", max_tokens=1)
                await asyncio.sleep(0.1)

        others = asyncio.create_task(use_it_too())
        report = await measured([gateway], only=["settlement"])
        others.cancel()
        with suppress(asyncio.CancelledError):
            await others

    assert set() == failed(report)
    assert any("other traffic" in note for note in report.notes)
    quota = found(report, "settlement", "requests-per-calendar-month")
    assert ("skipped", "other-traffic") == (quota.verdict, quota.cause)


async def test_a_place_that_others_hold_is_not_called_a_leak(tmp_path: Path) -> None:
    """It never rises while the run looks on, and is taken all the time."""
    async with replicas(tmp_path, 1, PACED) as (gateway,):
        plan = gateway.gateway.files.book.plan_for("small", "ws-small")
        assert plan is not None
        reserve = Usage(requests=1, tokens=10)
        others = Demand(
            workspace="ws-small", plan=plan, lease_id="others", reserve=reserve
        )
        await gateway.ledger.adopt(others)
        report = await measured([gateway], only=["leaked-leases"])
        await gateway.ledger.settle("ws-small", "others", Usage())

    finding = found(report, "leaked-leases", "concurrency")
    assert ("skipped", "other-traffic") == (finding.verdict, finding.cause)
    assert "10 tokens reserved" in report.notes[0]


async def test_a_plan_without_limits_proves_nothing(tmp_path: Path) -> None:
    """A key of the wrong plan must not make a pipeline green, nor spend anything."""
    shadow = "rates: [{of: requests, limit: 4, per: second, shadow: true}]"
    async with replicas(tmp_path, 1, f"plan: small\n{shadow}\n") as (gateway,):
        with pytest.raises(Unusable, match="limits nothing"):
            await measured([gateway])
        used = await gateway.used("small")

    assert {"requests-per-second": 0} == used


async def test_a_spent_workspace_is_no_pass(tmp_path: Path) -> None:
    """Nothing is let in, so nothing can be told of the limits; nobody is accused."""
    plan = "plan: small\nquotas: [{of: requests, limit: 1, per: month}]\n"
    async with replicas(tmp_path, 1, plan) as (gateway,):
        await gateway.chat("small", max_tokens=1)
        report = await measured([gateway])

    assert set() == failed(report)
    assert (3, "incomplete") == (report.exit_code, report.verdict)
    assert "little-quota-left" in report.not_judged


async def test_what_there_was_no_time_for_is_said(tmp_path: Path) -> None:
    """Requests that refill slowly hide tokens; with more --seconds they would not."""
    plan = """
plan: small
rates:
  - {of: requests, limit: 6, per: minute}
  - {of: tokens, limit: 2000, per: minute}
"""
    async with replicas(tmp_path, 1, plan) as (gateway,):
        report = await measured([gateway], only=["under-admission"], seconds=20)

    finding = found(report, "under-admission", "tokens-per-minute")
    assert ("skipped", "out-of-time") == (finding.verdict, finding.cause)


async def test_streams_too_short_to_be_counted_are_called_so(tmp_path: Path) -> None:
    """Not hidden by the limits that refused other requests later."""
    plan = PACED.replace("burst: 6", "burst: 60")
    ledger = ForgetfulLedger(wall_clock_us)
    async with replicas(tmp_path, 1, plan, BRIEF, ledger=ledger) as (gateway,):
        report = await measured([gateway], only=["over-admission"])

    finding = found(report, "over-admission", "concurrency")
    assert ("skipped", "short-answers") == (finding.verdict, finding.cause)


async def test_a_run_that_is_cancelled_gives_back_every_stream(
    tmp_path: Path,
) -> None:
    """Ctrl-C in the middle leaves no place taken."""
    async with replicas(tmp_path, 1) as (gateway,):
        run = asyncio.create_task(measured([gateway], only=["leaked-leases"]))
        await until(lambda: gateway.held("small") == 3, "three streams")
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run

        await gateway.until_free("small")
        assert run.cancelled()
