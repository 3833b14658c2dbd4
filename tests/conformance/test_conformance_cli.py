"""The `conformance` command as a process: exit codes, what is printed where."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.conformance import cli
from gateway.conformance.call import KEY_VARIABLE
from gateway.conformance.findings import CHECKS, REMEDIES
from gateway.conformance.output import INTERRUPTED
from gateway.conformance.report import EXIT_CODES
from tests.conformance.ledgers import OverchargingLedger, wall_clock_us
from tests.conformance.replicas import KEY, METERED, MODEL, SMALL, replicas
from tests.gateway_under_test import until
from tests.proofs.deployment import deployed

PAGE: Final = Path(__file__).parents[2] / "docs" / "conformance.md"

# As at a terminal: a job in the background is started with Ctrl-C ignored.
COMMAND: Final = """
import argparse, signal, sys
from gateway.conformance import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
parser = argparse.ArgumentParser(prog="conformance")
cli.add_arguments(parser)
sys.exit(cli.run(parser.parse_args()))
"""


# As for most users: what a failed write leaves behind is tried again at exit.
BUFFERED: Final = {"PYTHONUNBUFFERED": ""}


async def conformance(
    *arguments: str,
    stdout: Any = asyncio.subprocess.PIPE,
    stderr: Any = asyncio.subprocess.PIPE,
    **environment: str,
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMAND, "--model", MODEL, *arguments),
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, KEY_VARIABLE: KEY, **environment},
    )


async def test_a_refused_key_makes_the_deployment_unusable(tmp_path: Path) -> None:
    """Nothing was measured, so the exit code is neither pass nor fail."""
    async with replicas(tmp_path, 1) as (gateway,):
        process = await conformance("--base-url", gateway.url, "--key", "wrong")
        out, complaints = await process.communicate()

    assert (2, b"") == (process.returncode, out)
    assert b"/v1/limits answers 401" in complaints


STRANGE: Final = [
    pytest.param(
        "302 Found\r\nlocation: https://elsewhere/",
        b"",
        "/v1/limits answers 302 and points to https://elsewhere/",
        id="a redirect",
    ),
    pytest.param(
        "200 OK", b"<html>hi</html>", "/v1/limits tells no limits", id="a web page"
    ),
    pytest.param(
        "200 OK",
        b'{"limits": [{"dimension": "x", "kind": "mood"}]}',
        "/v1/limits tells no limits",
        id="another product",
    ),
    pytest.param(
        "503 No",
        b"upstream gone",
        "/v1/limits answers 503, and not as a gateway does",
        id="a proxy's error",
    ),
    pytest.param(
        "403 No",
        b'{"error": {"message": "\\u001b]0;owned\\nsecond line"}}',
        "/v1/limits answers 403: ?]0;owned?second line",
        id="escapes in a message",
    ),
    pytest.param("200", b"", "/v1/limits", id="no HTTP"),
]


@pytest.mark.parametrize(("head", "body", "complaint"), STRANGE)
async def test_something_else_behind_the_url(
    head: str, body: bytes, complaint: str
) -> None:
    """It is told in one line what is wrong with it."""
    async with answering(head, body) as url:
        process = await conformance("--base-url", url)
        out, told = await process.communicate()

    assert (2, b"") == (process.returncode, out)
    assert complaint in told.decode()
    assert told.count(b"\n") == 1


@asynccontextmanager
async def answering(head: str, body: bytes) -> AsyncIterator[str]:
    """A server that says the same to everybody."""

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = f"content-length: {len(body)}\r\nconnection: close"
        writer.write(f"HTTP/1.1 {head}\r\n{length}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"


async def until_told(process: asyncio.subprocess.Process, text: str) -> None:
    """Read its standard error until it says this."""
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode():
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}")


async def test_a_deployment_that_dies_in_the_middle_is_not_judged() -> None:
    """The exit code is neither pass nor fail, and the line says how far it came."""
    async with deployed({"small": SMALL}, store_url="memory://", replicas=1) as live:
        (gateway,) = live.gateways
        process = await conformance("--base-url", gateway.url)
        await until_told(process, "a few requests in quiet")
        gateway.kill()
        out, told = await process.communicate()

    assert (2, b"") == (process.returncode, out)
    last = told.decode().splitlines()[-1]
    assert "(while a few requests in quiet, after " in last
    assert last.endswith("; nothing was judged)")


async def test_a_seldom_user_gets_time_to_show_up(tmp_path: Path) -> None:
    """Before a deployment is accused it is watched while nothing is asked."""
    ledger = OverchargingLedger(wall_clock_us)
    async with replicas(tmp_path, 1, ledger=ledger) as (gateway,):
        process = await conformance("--base-url", gateway.url, "--only", "settlement")
        await until_told(process, "watching for other traffic")
        await gateway.chat("small", max_tokens=1)
        out, _ = await process.communicate()

    assert process.returncode == 3
    assert b"note: other traffic uses the workspace" in out
    assert b"FAIL" not in out


async def test_a_reader_that_has_seen_enough_changes_no_exit_code(
    tmp_path: Path,
) -> None:
    """As with `| head -1`: of both streams, and without a trace of it."""
    async with replicas(tmp_path, 1, METERED) as (gateway,):
        process = await conformance(
            "--base-url", gateway.url, "--only", "settlement", **BUFFERED
        )
        for stream in (process.stdout, process.stderr):
            transport = getattr(stream, "_transport", None)
            assert transport is not None
            transport.close()
        code = await process.wait()

    assert code == 0


async def test_a_report_that_is_lost_is_not_a_verdict(tmp_path: Path) -> None:
    """A full disk is exit code 2, with the verdict on standard error."""
    async with replicas(tmp_path, 1, METERED) as (gateway,):
        full = os.open("/dev/full", os.O_WRONLY)
        process = await conformance(
            *("--base-url", gateway.url, "--only", "settlement"),
            stdout=full,
            **BUFFERED,
        )
        os.close(full)
        _, told = await process.communicate()

    assert process.returncode == 2
    assert b"pass, but the report could not be written: " in told


async def test_few_characters_are_enough(tmp_path: Path) -> None:
    """Where standard output knows ASCII only, the rest is escaped."""
    async with replicas(tmp_path, 1, METERED) as (gateway,):
        process = await conformance(
            *("--base-url", gateway.url, "--only", "settlement"),
            PYTHONIOENCODING="ascii",
        )
        out, told = await process.communicate()

    assert process.returncode == 0
    assert b"plan F\\xfcr Tests" in out
    assert b"Traceback" not in told


async def test_a_bar_never_wraps(tmp_path: Path) -> None:
    """On a terminal of 20 columns, one line is written over and over."""
    leader, follower = os.openpty()
    termios.tcsetwinsize(follower, (24, 20))
    async with replicas(tmp_path, 1, METERED) as (gateway,):
        process = await conformance(
            *("--base-url", gateway.url, "--only", "settlement"), stderr=follower
        )
        await process.communicate()
    os.close(follower)
    shown = os.read(leader, 2**16).decode()
    os.close(leader)

    bars = re.findall(r"\r(\[[^\x1b]*)\x1b\[K", shown)
    assert len(bars) == 3
    assert max(map(len, bars)) < 20


async def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    """For a pipeline: exit 0, figures on stdout, silence on stderr."""
    async with replicas(tmp_path, 1, METERED) as (gateway,):
        process = await conformance(
            "--base-url", f"{gateway.url}/v1/", "--json", "--only", "settlement"
        )
        out, complaints = await process.communicate()

    document = json.loads(out)
    assert (0, b"") == (process.returncode, complaints)
    assert ("conformance", "pass") == (document["object"], document["verdict"])
    assert document["spends_at_most"]["requests"] >= document["requests_sent"]
    assert (0, None) == (document["exit_code"], document["error"])
    assert {"settlement"} == {check["check"] for check in document["checks"]}
    assert "Für Tests" == document["plan"]
    assert out.isascii()
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

    assert (INTERRUPTED, b"") == (process.returncode, out)
    lines = told.decode().splitlines()
    assert "this run spends at most" in lines[0]
    assert lines[-1].endswith("every stream and connection was given back")
    assert "\r" not in told.decode()


async def test_an_interrupted_run_is_a_document_too(tmp_path: Path) -> None:
    """SIGTERM or Ctrl-C: what parses standard output gets one object."""
    async with replicas(tmp_path, 1) as (gateway,):
        process = await conformance(
            "--base-url", gateway.url, "--only", "leaked-leases", "--json"
        )
        await until(lambda: gateway.held("small") == 3, "three streams")
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
        await gateway.until_free("small")

    document = json.loads(out)
    assert "interrupted" == document["verdict"]
    assert INTERRUPTED == document["exit_code"] == process.returncode


def test_every_option_and_check_is_documented() -> None:
    """The page is what an operator reads before pointing this at production."""
    page = PAGE.read_text(encoding="utf-8")
    parser = argparse.ArgumentParser(add_help=False)
    cli.add_arguments(parser)

    options = {flag for flag in re.findall(r"--[a-z-]+", parser.format_help())}
    assert options == set(re.findall(r"^\| `(--[a-z-]+)", page, flags=re.MULTILINE))
    for check in CHECKS:
        assert f"\n| `{check}` |" in page
    for cause in REMEDIES:
        assert f"\n| `{cause}` |" in page
    for code in (*EXIT_CODES.values(), INTERRUPTED):
        assert f"\n| {code} |" in page
        assert f"\n  {code} " in parser.format_help()
