"""The `conformance` command: wrong calls, exit codes, what is printed where."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Final

import pytest

from gateway.conformance import cli
from gateway.conformance.findings import CHECKS
from tests.conformance.replicas import KEY, MODEL, replicas
from tests.gateway_under_test import until

PAGE: Final = Path(__file__).parents[2] / "docs" / "conformance.md"
URL: Final = ("--base-url", "http://127.0.0.1:9")

# As at a terminal: a job in the background is started with Ctrl-C ignored.
COMMAND: Final = """
import argparse, signal, sys
from gateway.conformance import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
parser = argparse.ArgumentParser(prog="conformance")
cli.add_arguments(parser)
sys.exit(cli.run(parser.parse_args()))
"""


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(arguments)


async def conformance(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, cli.KEY_VARIABLE: KEY}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMAND, "--model", MODEL, *arguments),
        stdout=pipe,
        stderr=pipe,
        env=environment,
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--key", "k"), "--base-url is missing"),
        (("--key", "k", "--base-url", "acme"), "--base-url: 'acme' is no http"),
        (URL, "no key: set LLMTUNE_GATEWAY_KEY"),
        ((*URL, "--key", "kéy"), "--key: printable ASCII"),
        ((*URL, "--key", "k", "--only", "speed"), "--only: 'speed' is none of"),
        ((*URL, "--key", "k", "--seconds", "1"), "--seconds: '1' is not allowed"),
        ((*URL, "--key", "k", "--concurrency", "x"), "--concurrency: 'x' is not"),
        ((*URL, "--key", "k", "--model", "m"), "/v1/limits does not answer"),
    ],
)
def test_a_wrong_call_is_told_in_one_line(
    arguments: tuple[str, ...],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the option and what is allowed, and the exit code is 2."""
    monkeypatch.delenv(cli.KEY_VARIABLE, raising=False)

    code = cli.run(parsed(*arguments))

    told = capsys.readouterr()
    assert (2, "") == (code, told.out)
    assert complaint in told.err
    assert told.err.count("\n") == 1


async def test_a_refused_key_makes_the_deployment_unusable(tmp_path: Path) -> None:
    """Nothing was measured, so the exit code is neither pass nor fail."""
    async with replicas(tmp_path, 1) as (gateway,):
        process = await conformance("--base-url", gateway.url, "--key", "wrong")
        out, complaints = await process.communicate()

    assert (2, b"") == (process.returncode, out)
    assert b"/v1/limits answers 401" in complaints


async def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    """For a pipeline: exit 0, figures on stdout, silence on stderr."""
    async with replicas(tmp_path, 1) as (gateway,):
        process = await conformance(
            "--base-url", f"{gateway.url}/v1/", "--json", "--only", "settlement"
        )
        out, complaints = await process.communicate()

    document = json.loads(out)
    assert (0, b"") == (process.returncode, complaints)
    assert ("conformance", "pass") == (document["object"], document["verdict"])
    assert document["spends_at_most"]["requests"] >= document["requests_sent"]
    assert {"settlement"} == {check["check"] for check in document["checks"]}
    assert KEY not in out.decode()


async def test_an_interrupted_run_gives_everything_back_and_says_so(
    tmp_path: Path,
) -> None:
    """Ctrl-C mid-stream: no place stays taken; no bar where there is no terminal."""
    async with replicas(tmp_path, 1) as (gateway,):
        process = await conformance(
            "--base-url", gateway.url, "--only", "leaked-leases"
        )
        await until(lambda: gateway.held("small") == 3, "three streams")
        process.send_signal(signal.SIGINT)
        out, told = await process.communicate()
        await gateway.until_free("small")

    assert (cli.INTERRUPTED, b"") == (process.returncode, out)
    lines = told.decode().splitlines()
    assert "this run spends at most" in lines[0]
    assert lines[-1].endswith("every stream and connection was given back")
    assert "\r" not in told.decode()


def test_every_option_and_check_is_documented() -> None:
    """The page is what an operator reads before pointing this at production."""
    page = PAGE.read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(add_help=False)
    cli.add_arguments(parser)

    options = {flag for flag in re.findall(r"--[a-z-]+", parser.format_help())}
    assert options == set(re.findall(r"^\| `(--[a-z-]+)", page, flags=re.MULTILINE))
    for check in CHECKS:
        assert f"\n| `{check}` |" in page
