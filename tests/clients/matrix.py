"""
Runs one client program against a gateway and a simulator of its own.

Its own, because scenarios spend plans: every client finds them untouched.
"""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Final

import msgspec

from gateway.secret import Secret
from gateway.simulator.server import running_simulator
from gateway.simulator.settings import SimulatorSettings
from tests.clients.prepare import ROOT
from tests.gateway_under_test import gateway_under_test
from tests.servers.process import ReservedPort

# A client takes ten seconds; below pytest's own time-out, whose report says less.
RUN_TIMEOUT_S: Final = 50.0

# Answers end within a blink, and are long enough to come in several pieces.
QUICK: Final = SimulatorSettings(answer_tokens_min=20, answer_tokens_max=30)

# The other gateway's LLMTune: another generation, and pauses to be filled with pings.
SLOW: Final = SimulatorSettings(
    generation=2,
    stream_form="token",
    tokens_per_second=50,
    answer_tokens_min=8,
    answer_tokens_max=8,
)
SLOW_PING_INTERVAL_S: Final = 0.005

JOINS: Final = "idempotency: {join_retries_s: 30}"

# One plan for every scenario that spends one.
PLANS: Final = {
    "metered": """
        rates:
          - {of: requests, limit: 6000, per: minute}
          - {of: tokens, limit: 9000000, per: minute}
    """,
    "rate-of-one": "rates: [{of: requests, limit: 1, per: minute}]",
    "one-a-second": "rates: [{of: requests, limit: 60, per: minute, burst: 1}]",
    "quota-of-one": "quotas: [{of: requests, limit: 1, per: month}]",
    "few-tokens": "rates: [{of: tokens, limit: 100, per: minute}]",
    "joins": JOINS,
    "short-prompts": "request: {max_input_tokens: 100}",
    **{
        f"alone-{leaving}": "concurrency: 1"
        for leaving in ("close", "break", "timeout", "cancel", "abort")
    },
}


class Outcome(msgspec.Struct, frozen=True):
    """What a program said about one scenario."""

    name: str
    ok: bool
    detail: str


class Report:
    """Everything a program said, and how it ended."""

    def __init__(self, outcomes: list[Outcome], status: int | None, said: str) -> None:
        self.outcomes = {outcome.name: outcome for outcome in outcomes}
        self._ending = f"the program ended with status {status}: {said[-2000:]}"

    def check(self, name: str, promise: str) -> None:
        """Fail with the promise and the client's own account of how it was broken."""
        outcome = self.outcomes.get(name)
        assert outcome is not None, f"{name} was not run; {self._ending}"
        assert outcome.ok, f"broken: {promise}\n\n{outcome.detail}"


def run_client(command: list[str], folder: Path) -> Report:
    """The report of one program; AssertionError if it left anything behind."""
    return asyncio.run(_run_client(command, folder))


async def _run_client(command: list[str], folder: Path) -> Report:
    # Where LLMTune posts what became of batches.
    port = ReservedPort()
    try:
        return await _run_at(port.number, command, folder)
    finally:
        port.release()


async def _run_at(port: int, command: list[str], folder: Path) -> Report:
    quick_folder, slow_folder = folder / "quick", folder / "slow"
    quick_folder.mkdir()
    slow_folder.mkdir()
    plans = {name: f"plan: {name}\n{dedent(text)}\n" for name, text in PLANS.items()}
    async with (
        running_simulator(QUICK) as simulator,
        running_simulator(SLOW) as slow_simulator,
        gateway_under_test(
            quick_folder,
            plans,
            upstream_url=simulator.base_url,
            public_url=f"http://127.0.0.1:{port}",
            webhook_secret=Secret(QUICK.webhook_secret),
            port=port,
        ) as gateway,
        gateway_under_test(
            slow_folder,
            {"joins": f"plan: joins\n{JOINS}\n"},
            upstream_url=slow_simulator.base_url,
            stream_ping_interval_s=SLOW_PING_INTERVAL_S,
        ) as slow_gateway,
    ):
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "OPENAI_BASE_URL": f"{gateway.url}/v1",
            "OPENAI_API_KEY": gateway.key(),
            "CLIENT_SLOW_URL": f"{slow_gateway.url}/v1",
            "CLIENT_KEYS": json.dumps(gateway.keys),
        }
        return await _run(command, environment)


async def _run(command: list[str], environment: Mapping[str, str]) -> Report:
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment, stdout=PIPE, stderr=PIPE
    )
    ending = asyncio.create_task(process.communicate())
    try:
        # Not wait_for: what was said until then still names the scenario that hung.
        await asyncio.wait([ending], timeout=RUN_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    said, complained = await ending
    decode = msgspec.json.Decoder(Outcome).decode
    outcomes = [decode(line) for line in said.splitlines() if line.startswith(b"{")]
    return Report(outcomes, process.returncode, complained.decode(errors="replace"))
