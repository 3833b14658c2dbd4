"""
A run: rounds in which every gateway takes its turn, each started and stopped for it.

The machine's speed drifts over minutes, so neighbours in time are compared and rounds
alternate; figures are kept round by round.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.gateways import GATEWAYS, START_WITHIN_S, Gateway, Site, Started
from benchmarks.nginx import static_upstream
from benchmarks.peers import PeerMissing
from benchmarks.processes import LOAD_CORE, Process, StartFailed, accepts, free_port
from benchmarks.requests import ProbeFailed, probe_stream, probe_whole, whole_body
from benchmarks.workloads import (
    WORKLOADS,
    Bench,
    Figures,
    Point,
    Upstream,
    Workload,
    joined,
)
from benchmarks.wrk import LoadFailed, run_wrk
from tests.servers.process import redis_binary

_PROBES: Final = {"whole": probe_whole, "streams": probe_stream}
_PROBE_TRIES: Final = 3
_FAILURES: Final = (PeerMissing, StartFailed, ProbeFailed, LoadFailed)
_SLICE_S: Final = 1.0
_WARM_CONNECTIONS: Final = 32
_WARM_STREAMS: Final = 20


class Plan(msgspec.Struct, frozen=True):
    """What a run does; printed with its results."""

    workloads: tuple[str, ...]
    gateways: tuple[str, ...]
    # Of a workload's points, those named; empty for all.
    points: tuple[str, ...] = ()
    rounds: int = 3
    seconds: float = 4.0
    stream_seconds: float = 5.0
    warm_seconds: float = 1.5
    minutes: float = 30.0
    is_quiet: bool = False

    def has(self, point: Point, gateway: str) -> bool:
        is_wanted = not self.points or point.name in self.points
        return is_wanted and gateway not in point.beyond


class Measured(msgspec.Struct, frozen=True):
    """One gateway at one point in one round."""

    round: int
    workload: str
    point: str
    gateway: str
    figures: Figures


class LeftOut(msgspec.Struct, frozen=True):
    """What a run could not measure, and why."""

    round: int
    gateway: str
    what: str
    reason: str


class Run:
    """One run and what it has measured so far."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.measured: list[Measured] = []
        self.left_out: list[LeftOut] = []
        self._folder = folder
        self._say = say
        self._held = ExitStack()
        self._helpers: dict[str, Process] = {}
        self._ports: dict[str, int] = {}

    def __enter__(self) -> Run:
        try:
            self._start_helpers()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def rounds(self) -> None:
        """All rounds that fit into the time: none is begun that would not end in it."""
        started_s = time.monotonic()
        longest_s = 0.0
        for number in range(1, self.plan.rounds + 1):
            began_s = time.monotonic()
            if began_s - started_s + longest_s > self.plan.minutes * 60:
                self._say(f"round {number} would end after {self.plan.minutes:g} min")
                return
            self._say(f"round {number} of {self.plan.rounds}")
            for upstream in ("whole", "streams"):
                self._turns(number, upstream)
            longest_s = max(longest_s, time.monotonic() - began_s)

    def _turns(self, number: int, upstream: Upstream) -> None:
        workloads = [
            workload
            for workload in WORKLOADS
            if workload.upstream == upstream and workload.name in self.plan.workloads
        ]
        for workload in workloads:
            if workload.slices:
                self._in_turn(number, workload)
        workloads = [workload for workload in workloads if not workload.slices]
        # Backwards every second time, so that no gateway always follows another.
        for gateway in GATEWAYS if number % 2 else reversed(GATEWAYS):
            chosen = [w for w in workloads if gateway.name in w.gateways]
            if gateway.name in self.plan.gateways and chosen:
                self._turn(number, gateway, upstream, chosen)

    def _turn(
        self, number: int, gateway: Gateway, upstream: Upstream, chosen: list[Workload]
    ) -> None:
        try:
            with self._started(gateway, upstream) as bench:
                for workload in chosen:
                    self._measure(number, gateway, workload, bench)
        except _FAILURES as problem:
            self._leave_out(number, gateway.name, upstream, str(problem))

    def _in_turn(self, number: int, workload: Workload) -> None:
        """All gateways of a workload at once, each loaded for a second at a time."""
        names = [name for name in workload.gateways if name in self.plan.gateways]
        points = [p for p in workload.points if self.plan.has(p, "")]
        chosen = [gateway for gateway in GATEWAYS if gateway.name in names]
        if not chosen or not points:
            return
        with ExitStack() as held:
            benches: dict[str, Bench] = {}
            for gateway in chosen:
                try:
                    started = self._started(gateway, workload.upstream)
                    bench = held.enter_context(started)
                except _FAILURES as problem:
                    self._leave_out(number, gateway.name, workload.name, str(problem))
                else:
                    benches[gateway.name] = bench._replace(seconds=_SLICE_S)
            for point in points:
                self._slices(number, workload, point, benches)

    def _slices(
        self, number: int, workload: Workload, point: Point, benches: dict[str, Bench]
    ) -> None:
        slices: dict[str, list[Figures]] = {name: [] for name in benches}
        for turn in range(workload.slices):
            for name in list(slices) if turn % 2 else reversed(list(slices)):
                try:
                    slices[name].append(point.measure(benches[name]))
                except LoadFailed as problem:
                    self._leave_out(number, name, point.name, str(problem))
                    del slices[name]
        for name, figures in slices.items():
            self._note(number, workload, point, name, joined(figures))

    def _note(
        self,
        number: int,
        workload: Workload,
        point: Point,
        gateway: str,
        figures: Figures,
    ) -> None:
        self._say(f"  {point.name:14} {gateway:12} {_brief(figures)}")
        self.measured.append(
            Measured(number, workload.name, point.name, gateway, figures)
        )

    def _leave_out(self, number: int, gateway: str, what: str, reason: str) -> None:
        self._say(f"  {gateway}: {what} LEFT OUT: {reason}")
        self.left_out.append(LeftOut(number, gateway, what, reason))

    def _measure(
        self, number: int, gateway: Gateway, workload: Workload, bench: Bench
    ) -> None:
        for point in workload.points:
            if not self.plan.has(point, gateway.name):
                continue
            try:
                figures = point.measure(bench)
            except LoadFailed as problem:
                self._leave_out(number, gateway.name, point.name, str(problem))
                continue
            self._note(number, workload, point, gateway.name, figures)

    @contextmanager
    def _started(self, gateway: Gateway, upstream: Upstream) -> Iterator[Bench]:
        site = Site(
            self._folder,
            self._ports[upstream],
            self._redis_url,
            self._ports["otlp"],
            self.plan.is_quiet,
        )
        started = gateway.start(site)
        with ExitStack() as held:
            if started.process is not None:
                held.callback(started.process.stop)
                port = started.target.port
                started.process.wait_until_answers(
                    lambda: accepts(port), START_WITHIN_S
                )
            _probe(started, upstream)
            self._warm_up(started, upstream)
            process = started.process
            yield Bench(
                started,
                tuple(self._helpers.values()),
                self._folder,
                self._seconds(upstream),
                process.rss_bytes() if process else 0,
            )

    def _seconds(self, upstream: Upstream) -> float:
        is_whole = upstream == "whole"
        return self.plan.seconds if is_whole else self.plan.stream_seconds

    def _warm_up(self, started: Started, upstream: Upstream) -> None:
        if upstream == "streams":
            for _ in range(_WARM_STREAMS):
                probe_stream(started.target)
            return
        run_wrk(
            started.target,
            whole_body(),
            connections=_WARM_CONNECTIONS,
            seconds=self.plan.warm_seconds,
            folder=self._folder,
        )

    @property
    def _redis_url(self) -> str:
        return f"redis://127.0.0.1:{self._ports['redis']}/0"

    def _start_helpers(self) -> None:
        """Both upstreams and Redis, for the whole run, on the load's core."""
        port = self._ports["whole"] = free_port()
        self._help("whole", static_upstream(self._folder, port=port, core=LOAD_CORE))
        port = self._ports["redis"] = free_port()
        self._help("redis", _redis(self._folder, port))
        port = self._ports["otlp"] = free_port()
        self._help("otlp", _otlp_sink(self._folder, port))
        # Bound here and handed over, so that its port listens at once.
        listener = self._held.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._ports["streams"] = listener.getsockname()[1]
        fd = listener.fileno()
        stream_upstream = Process(
            "upstream_stream",
            [sys.executable, "-m", "benchmarks.upstream_stream", str(fd)],
            core=LOAD_CORE,
            folder=self._folder,
            pass_fds=[fd],
        )
        self._help("streams", stream_upstream)

    def _help(self, name: str, process: Process) -> None:
        self._held.callback(process.stop)
        self._helpers[name] = process
        port = self._ports[name]
        process.wait_until_answers(lambda: accepts(port), START_WITHIN_S)


def _redis(folder: Path, port: int) -> Process:
    settings = ("--save", "", "--appendonly", "no", "--loglevel", "warning")
    command = [redis_binary(), "--bind", "127.0.0.1", "--port", str(port), *settings]
    return Process("redis", command, core=LOAD_CORE, folder=folder)


def _otlp_sink(folder: Path, port: int) -> Process:
    command = [sys.executable, "-m", "benchmarks.otlp_sink", str(port)]
    return Process("otlp_sink", command, core=LOAD_CORE, folder=folder)


def _probe(started: Started, upstream: Upstream) -> None:
    """One right answer; a gateway may listen a moment before it can give it."""
    for tries_left in reversed(range(_PROBE_TRIES)):
        try:
            _PROBES[upstream](started.target)
        except ProbeFailed:
            if not tries_left:
                raise
            time.sleep(1)
        else:
            return


def _brief(figures: Figures) -> str:
    """One line while the run goes on; the tables come at its end."""
    shown: list[Any] = [f"{name}={value:.4g}" for name, value in figures.items()]
    return " ".join(shown)


def encode(value: Any) -> str:
    """Indented JSON, as the results are kept."""
    return json.dumps(msgspec.to_builtins(value), indent=1)
