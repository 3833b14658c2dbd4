"""Whole answers over keep-alive connections, by wrk: as fast as they come."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.loopback import loopback_port
from benchmarks.peers import tool, tool_environment
from benchmarks.requests import Target

_SCRIPT: Final = Path(__file__).with_name("load.lua")
_FIGURES: Final = re.compile(
    r"^figures requests=(\d+) duration_us=(\d+) p50_us=(\d+) p99_us=(\d+)"
    r" status=(\d+) socket=(\d+) timeout=(\d+)$",
    re.MULTILINE,
)
# For the slowest peer with the most connections; wrk's own 2 s would cut it off.
_ANSWER_WITHIN_S: Final = 30
_END_WITHIN_S: Final = 30.0


class LoadFailed(Exception):
    """A load tool did not do its work."""


class WrkFigures(NamedTuple):
    """What wrk says at its end."""

    requests: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    # Answers of status 400 and more; the requests above contain them.
    refused: int
    # Connections that failed, and answers that did not come in time.
    broken: int

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s


def parse_wrk(output: str) -> WrkFigures:
    """The figures in wrk's output, as load.lua prints them."""
    found = _FIGURES.search(output)
    if found is None:
        raise LoadFailed(f"wrk printed no figures: {output.strip()[-200:]}")
    requests, duration, p50, p99, status, broken, timeout = map(int, found.groups())
    return WrkFigures(
        requests, duration / 1e6, p50 / 1e3, p99 / 1e3, status, broken + timeout
    )


def run_wrk(
    target: Target, body: bytes, *, connections: int, seconds: float, folder: Path
) -> WrkFigures:
    """Load one gateway from this process's core; whole seconds, as wrk counts."""
    loopback_port(target.url)
    body_file, headers_file = folder / "body.json", folder / "headers"
    body_file.write_bytes(body)
    headers_file.write_text("\n".join("|".join(s) for s in target.header_sets))
    whole_s = max(1, round(seconds))
    command = [
        tool("wrk"),
        *("-t", "1", "-c", str(connections), "-d", f"{whole_s}s"),
        *("--timeout", f"{_ANSWER_WITHIN_S}s", "-s", str(_SCRIPT), target.url),
        *("--", str(body_file), str(headers_file)),
    ]
    try:
        told = subprocess.run(
            command,
            env={**os.environ, **tool_environment()},
            capture_output=True,
            text=True,
            check=False,
            timeout=whole_s + _END_WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"wrk did not end after {whole_s} s") from None
    return parse_wrk(told.stdout + told.stderr)
