"""
What is asked of a started gateway, and which figures come of it.

A workload has points, as 1, 32 and 256 connections; a point is measured once a round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from benchmarks.gateways import Started
from benchmarks.processes import (
    GATEWAY_CORE,
    LOAD_CORE,
    Process,
    core_busy_s,
    running,
)
from benchmarks.requests import Target, whole_body
from benchmarks.wrk import LoadFailed, WrkFigures, run_wrk

Figures: TypeAlias = dict[str, float]
# Which upstream a gateway is started in front of.
Upstream: TypeAlias = Literal["whole", "streams"]

STREAM_EVENTS_PER_S: Final = 50
RATE_PER_S: Final = 500
POOL: Final = 32
_BODY_CONNECTIONS: Final = 8
_KIB: Final = 1024
# The most that opening streams may ask of a gateway; beside it their first tokens are
# measured, and a burst would measure the queue instead.
_OPENED_PER_S: Final = 500
_SETTLE_S: Final = 1.0
_RATE_WARM_S: Final = 1.0
_TOOL_WITHIN_S: Final = 60.0


class Bench(NamedTuple):
    """A started gateway with everything that a point needs to be measured."""

    started: Started
    # Upstream and Redis: with the load they share a core, whose use is reported.
    helpers: tuple[Process, ...]
    folder: Path
    seconds: float
    # Of the gateway after its warm-up, before its first stream.
    idle_rss_bytes: int


class Point(NamedTuple):
    """One measurement of a workload."""

    name: str
    measure: Callable[[Bench], Figures]
    # Gateways for which it is left out, as they saturate far below.
    beyond: tuple[str, ...] = ()


class Workload(NamedTuple):
    """One table of the report."""

    name: str
    title: str
    upstream: Upstream
    gateways: tuple[str, ...]
    points: tuple[Point, ...]
    # Above 0: its gateways run at once and are loaded a second each in turn, this many
    # times, as the machine's speed drifts by more than they differ.
    slices: int = 0


class Usage(NamedTuple):
    """CPU seconds at one moment, or between two."""

    at_s: float
    gateway_s: float
    # Upstreams, Redis and the load, where it is a process of ours.
    load_s: float
    # Of the gateway's core, by whomever.
    core_s: float

    @classmethod
    def now(cls, bench: Bench, load: Process | None = None) -> Usage:
        gateway = bench.started.process
        helpers = (*bench.helpers, load) if load else bench.helpers
        return cls(
            time.monotonic(),
            gateway.cpu_s() if gateway else 0.0,
            sum(helper.cpu_s() for helper in helpers),
            core_busy_s(GATEWAY_CORE),
        )

    def since(self, before: Usage) -> Usage:
        return Usage(*(now - then for now, then in zip(self, before, strict=True)))

    def shares(self) -> Figures:
        """Of the gateway's core: what the gateway had, and what anything else took."""
        return {
            "busy_share": self.gateway_s / self.at_s,
            "others_share": max(self.core_s - self.gateway_s, 0.0) / self.at_s,
        }


def _load(bench: Bench, target: Target, body: bytes, connections: int) -> Figures:
    wrk, used = _load_measured(bench, target, body, connections)
    return _whole_figures(wrk, used)


def _load_measured(
    bench: Bench, target: Target, body: bytes, connections: int
) -> tuple[WrkFigures, Usage]:
    before = Usage.now(bench)
    wrk = run_wrk(
        target,
        body,
        connections=connections,
        seconds=bench.seconds,
        folder=bench.folder,
    )
    if wrk.requests == 0:
        raise LoadFailed(f"no answer within {bench.seconds:g} s")
    return wrk, Usage.now(bench).since(before)


def _whole_figures(wrk: WrkFigures, used: Usage) -> Figures:
    return {
        "per_s": wrk.per_s,
        "p50_ms": wrk.p50_ms,
        "p99_ms": wrk.p99_ms,
        "cpu_ms": used.gateway_s * 1000 / max(wrk.requests, 1),
        **used.shares(),
        "errors": wrk.refused + wrk.broken,
    }


def _whole(connections: int, name: str = "whole") -> Point:
    def measure(bench: Bench) -> Figures:
        return _load(bench, bench.started.target, whole_body(), connections)

    return Point(f"{name}-{connections}", measure)


def _bodies(name: str, prompt_bytes: int) -> Point:
    def measure(bench: Bench) -> Figures:
        body = whole_body(prompt_bytes)
        return _load(bench, bench.started.target, body, _BODY_CONNECTIONS)

    return Point(f"bodies-{name}", measure)


def _rejections(bench: Bench) -> Figures:
    """Admitted and refused by the same process, one after the other."""
    spent = bench.started.spent
    assert spent is not None, "only ours has a workspace to spend"
    admitted = _load(bench, bench.started.target, whole_body(), POOL)
    # The one request that the workspace has, so that no answer below is a 200.
    run_wrk(spent, whole_body(), connections=1, seconds=1, folder=bench.folder)
    wrk, used = _load_measured(bench, spent, whole_body(), POOL)
    figures = _whole_figures(wrk, used)
    # Here a refusal is what was asked for, and anything else the error.
    errors = admitted["errors"] + wrk.broken + (wrk.requests - wrk.refused)
    return {**figures, "admitted_per_s": admitted["per_s"], "errors": errors}


def _rate(bench: Bench) -> Figures:
    job = {
        **_address(bench.started.target),
        "per_s": RATE_PER_S,
        "connections": POOL,
        "warm_s": _RATE_WARM_S,
        "window_s": bench.seconds,
    }
    with _tool("load_rate", job, bench.folder) as load:
        return _last_line(load)


def _streams(streams: int) -> Point:
    def measure(bench: Bench) -> Figures:
        job = {
            **_address(bench.started.target),
            "streams": streams,
            "ramp_s": max(0.5, streams / _OPENED_PER_S),
            "settle_s": _SETTLE_S,
            "window_s": bench.seconds,
        }
        with _tool("load_streams", job, bench.folder) as load:
            _await_line(load, "window")
            before = Usage.now(bench, load)
            _await_line(load, "end")
            used = Usage.now(bench, load).since(before)
            gateway = bench.started.process
            rss_bytes = gateway.rss_bytes() if gateway else 0
            figures = _last_line(load)
        million = max(figures["events"], 1) / 1e6
        grown_bytes = rss_bytes - bench.idle_rss_bytes
        return {
            **figures,
            "events_per_s": figures["events"] / bench.seconds,
            "cpu_s_per_million": used.gateway_s / million,
            "rss_kib_per_stream": grown_bytes / 1024 / max(figures["answered"], 1),
            **used.shares(),
            "load_share": used.load_s / used.at_s,
        }

    beyond = ("litellm", "portkey") if streams > STREAM_EVENTS_PER_S else ()
    return Point(f"streams-{streams}", measure, beyond)


def _address(target: Target) -> dict[str, Any]:
    return {"url": target.url, "header_sets": target.header_sets}


@contextmanager
def _tool(module: str, job: dict[str, Any], folder: Path) -> Any:
    """One of our load tools at work."""
    tool = Process(
        module,
        [sys.executable, "-m", f"benchmarks.{module}"],
        core=LOAD_CORE,
        folder=folder,
        pipes=True,
    )
    with running(tool) as load:
        assert load.popen.stdin is not None
        load.popen.stdin.write(json.dumps(job).encode())
        load.popen.stdin.close()
        yield load


def _await_line(load: Process, line: str) -> None:
    assert load.popen.stdout is not None
    said = load.popen.stdout.readline().decode().strip()
    if said != line:
        raise LoadFailed(f"{load.name} said {said!r}, not {line!r}: {load.log_tail()}")


def _last_line(load: Process) -> Figures:
    assert load.popen.stdout is not None
    said = load.popen.stdout.readline()
    try:
        load.popen.wait(_TOOL_WITHIN_S)
        figures: Figures = json.loads(said)
    except (ValueError, subprocess.TimeoutExpired):
        raise LoadFailed(f"{load.name} failed: {load.log_tail()}") from None
    return figures


def joined(slices: Sequence[Figures]) -> Figures:
    """Slices of one gateway as one measurement: errors add up, the rest are medians."""
    found = {
        name: statistics.median(each[name] for each in slices) for name in slices[0]
    }
    return {**found, "errors": sum(each["errors"] for each in slices)}


_ALL: Final = (
    *("direct", "nginx", "envoy", "ours-redis", "ferrogw"),
    *("ours-memory", "ours-1000", "portkey", "litellm"),
)
_WITHOUT_1000: Final = tuple(name for name in _ALL if name != "ours-1000")

WORKLOADS: Final = (
    Workload(
        "whole",
        "Whole completions over keep-alive connections",
        "whole",
        _ALL,
        (_whole(1), _whole(32), _whole(256)),
    ),
    Workload(
        "telemetry",
        "Whole completions with metrics and traces on and off, 32 connections, in turn",
        "whole",
        ("ours-redis", "ours-no-metrics", "ours-traces-1"),
        (_whole(32, "telemetry"),),
        slices=12,
    ),
    Workload(
        # Not in turn with others: its spans are exported for seconds after the load.
        "traced",
        "Whole completions, every one traced, 32 connections",
        "whole",
        ("ours-redis", "ours-traces-100"),
        (_whole(32, "traced"),),
    ),
    Workload(
        "rate",
        f"Latency at a fixed {RATE_PER_S} requests/s, open loop",
        "whole",
        # LiteLLM's capacity is far below the rate.
        tuple(name for name in _WITHOUT_1000 if name != "litellm"),
        (Point(f"rate-{RATE_PER_S}", _rate),),
    ),
    Workload(
        "rejections",
        "429s of a workspace whose rate is spent, 32 connections",
        "whole",
        ("ours-redis", "ours-memory"),
        (Point("rejections", _rejections),),
    ),
    Workload(
        "bodies",
        "Large prompts, 8 connections",
        "whole",
        _WITHOUT_1000,
        (_bodies("100KiB", 100 * _KIB), _bodies("1MiB", _KIB * _KIB)),
    ),
    Workload(
        "streams",
        "Streams of 50 events/s each",
        "streams",
        ("direct", "nginx", "envoy", "ours-redis", "ferrogw", "portkey", "litellm"),
        (_streams(50), _streams(500), _streams(1000), _streams(2000)),
    ),
)
WORKLOAD_NAMES: Final = tuple(workload.name for workload in WORKLOADS)
