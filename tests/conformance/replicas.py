"""Replicas of a gateway in front of one simulator, for the conformance run to judge."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from gateway.conformance.cli import measure
from gateway.conformance.findings import Finding
from gateway.conformance.report import Report
from gateway.conformance.spending import Options
from gateway.simulator import SimulatorSettings, running_simulator
from tests.gateway_under_test import GatewayUnderTest, gateway_under_test

MODEL: Final = "llmtune-mini"
KEY: Final = "llmtune_gw_test_key_of_small"

# Rates that refill within a second, so that a run waits for little; the burst is larger
# than what refills while a loaded machine answers.
SMALL: Final = """
plan: small
concurrency: 3
rates:
  - {of: requests, limit: 10, per: second, burst: 12}
  - {of: tokens, limit: 1000, per: second}
quotas:
  - {of: requests, limit: 5000, per: month}
  - {of: tokens, limit: 200000, per: month}
"""

# Of requests only, so that one bucket is filled, and slow enough that a wait which is
# too long can be told from one that is not.
PACED: Final = """
plan: small
concurrency: 3
rates: [{of: requests, limit: 4, per: second, burst: 6}]
quotas: [{of: tokens, limit: 200000, per: month}]
"""

# All of whose promises about settlement are judged by a few requests.
METERED: Final = """
plan: small
title: Für Tests
quotas: [{of: tokens, limit: 200000, per: month}]
"""

# Answers of 3 s: long enough to be held open together.
SLOW: Final = SimulatorSettings(
    ttft_ms=5, tokens_per_second=40, answer_tokens_min=120, answer_tokens_max=120
)

# Over before the next one is let in.
BRIEF: Final = SimulatorSettings(
    ttft_ms=1, tokens_per_second=4000, answer_tokens_min=4, answer_tokens_max=4
)


@asynccontextmanager
async def replicas(
    folder: Path,
    count: int,
    plan: str = SMALL,
    answers: SimulatorSettings = SLOW,
    **settings: Any,
) -> AsyncIterator[list[GatewayUnderTest]]:
    """So many gateways; with `ledger` or a shared `store_url` they count together."""
    async with AsyncExitStack() as running:
        simulator = await running.enter_async_context(running_simulator(answers))
        started = []
        for number in range(count):
            home = folder / f"replica-{number}"
            home.mkdir()
            gateway = gateway_under_test(
                home, {"small": plan}, upstream_url=simulator.base_url, **settings
            )
            started.append(await running.enter_async_context(gateway))
        yield started


async def measured(gateways: Sequence[GatewayUnderTest], **options: Any) -> Report:
    """A run over these replicas."""
    if "only" in options:
        options["only"] = frozenset(options["only"])
    urls = [gateway.url for gateway in gateways]
    report, _ = await measure(urls, KEY, MODEL, Options(**options), is_json=True)
    return report


def failed(report: Report) -> set[tuple[str, str]]:
    """The checks that failed, with what they looked at."""
    return {(f.check, f.subject) for f in report.checks if f.verdict == "FAIL"}


def found(report: Report, check: str, subject: str) -> Finding:
    (finding,) = [f for f in report.checks if (f.check, f.subject) == (check, subject)]
    return finding
