"""The `simulate` command and its page in the documentation."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import httpx
import pytest

from gateway.simulator import FaultKind, SettingsError, SimulatorSettings
from gateway.simulator.cli import KNOBS

PAGE = Path(__file__).parents[2] / "docs" / "simulator.md"

COMMAND = """
import argparse, sys
from gateway.simulator import cli
parser = argparse.ArgumentParser(prog="simulate")
cli.add_arguments(parser)
sys.exit(cli.run(parser.parse_args()))
"""


async def simulate(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, *arguments, stdout=pipe, stderr=pipe
    )


async def first_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(10):
        return (await process.stdout.readline()).decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_simulate_prints_its_url_and_stops_on_a_signal(
    number: signal.Signals,
) -> None:
    """The printed URL answers; either signal ends the process with 0."""
    process = await simulate("--port", "0", "--generation", "3", "--fault", "cut=0")
    url = (await first_line(process)).split("base URL ")[1].strip(")\n")
    async with httpx.AsyncClient(headers={"authorization": "k"}) as client:
        answer = await client.post(
            f"{url}/models/llmtune-mini/inference", json={"prompt": "x"}
        )
    process.send_signal(number)
    _, complaints = await process.communicate()

    assert answer.json()["choices"]
    assert (process.returncode, complaints) == (0, b"")


async def test_simulate_stops_promptly_with_a_stalled_request_open() -> None:
    """A stall of ten minutes does not hold the process."""
    process = await simulate("--port", "0")
    url = (await first_line(process)).split("base URL ")[1].strip(")\n")
    body = {"model": "simulator/stall", "messages": [{"role": "user"}]}
    async with httpx.AsyncClient(headers={"authorization": "k"}) as client:
        request = asyncio.create_task(client.post(f"{url}/chat/completions", json=body))
        stats = url.removesuffix("/v1") + "/simulator/stats"
        faults: object = {}
        while faults != {"stall": 1}:
            faults = (await client.get(stats)).json()["faults"]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            _, complaints = await process.communicate()
        with pytest.raises(httpx.HTTPError):
            await request

    assert (process.returncode, complaints) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--ttft-ms", "soon"], "--ttft-ms"),
        (["--generation", "4"], "--generation"),
        (["--fault", "cut=0.7", "--fault", "stall=0.7"], "--fault"),
        (["--fault", "flood=0.1"], "--fault"),
        (["--answer-tokens", "9-5"], "--answer-tokens"),
        (["--port", "70000"], "--port"),
    ],
)
async def test_bad_knob_ends_with_one_line(arguments: list[str], names: str) -> None:
    """One line names the flag, and the exit status is 2."""
    process = await simulate(*arguments)
    output, complaints = await process.communicate()

    assert (process.returncode, output) == (2, b"")
    assert complaints.decode().startswith(f"llmtune-gateway simulate: {names}: ")
    assert complaints.count(b"\n") == 1


async def test_taken_port_ends_with_one_line() -> None:
    """A port in use is a clear complaint, not a traceback."""
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        process = await simulate("--port", str(port))
        _, complaints = await process.communicate()

    assert process.returncode == 2
    assert complaints.startswith(b"llmtune-gateway simulate: cannot listen")
    assert complaints.count(b"\n") == 1


@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param({"ttft_ms": -1}, id="negative"),
        pytest.param({"ttft_ms": float("nan")}, id="nan"),
        pytest.param({"generation": 4}, id="generation"),
        pytest.param({"faults": {"flood": 0.1}}, id="unknown-fault"),
        pytest.param({"faults": {FaultKind.CUT: 1.5}}, id="share"),
        pytest.param({"models": ()}, id="no-models"),
        pytest.param({"seed": "one"}, id="type"),
    ],
)
def test_bad_settings_are_refused_in_code_too(knobs: dict[str, object]) -> None:
    """The struct checks itself, whoever makes it."""
    with pytest.raises(SettingsError):
        SimulatorSettings(**knobs)  # type: ignore[arg-type]  # wrong on purpose


def test_every_knob_and_fault_is_documented() -> None:
    """The page lists what the command takes."""
    page = PAGE.read_text()

    assert [knob.flag for knob in KNOBS if f"`{knob.flag}" not in page] == []
    assert [kind for kind in FaultKind if f"`{kind}`" not in page] == []
