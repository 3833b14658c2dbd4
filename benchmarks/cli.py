"""`python -m benchmarks`: options in, tables and a file of results out."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from benchmarks.gateways import TITLES
from benchmarks.machine import (
    MachineUnfit,
    machine_facts,
    prepare_machine,
    versions,
)
from benchmarks.peers import PeerMissing
from benchmarks.processes import StartFailed
from benchmarks.report import report
from benchmarks.results import Results, to_json, with_added
from benchmarks.run import Plan, Run
from benchmarks.targets import judge
from benchmarks.workloads import WORKLOAD_NAMES, WORKLOADS

DEFAULT_OUTPUT: Final = Path("benchmarks/results.json")
_POINTS: Final = tuple(point.name for w in WORKLOADS for point in w.points)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Whoever ends the run, it ends its children first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        plan = _plan(options)
        prepare_machine()
        results = _run(plan)
    except KeyboardInterrupt:
        print("\nstopped; nothing is left running", file=sys.stderr)
        return 130
    except (MachineUnfit, PeerMissing, StartFailed, ValueError) as problem:
        print(f"benchmarks: {problem}", file=sys.stderr)
        return 2
    judged = judge(results)
    print(report(results, judged))
    options.output.write_bytes(to_json(results, judged))
    print(f"\nwritten to {options.output}")
    return 0


def _run(plan: Plan) -> Results:
    def say(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="gw-bench-") as folder:
        run = Run(plan, Path(folder), say)
        with run:
            run.rounds()
        return Results(
            machine_facts(), versions(), plan, with_added(run.measured), run.left_out
        )


def _plan(options: argparse.Namespace) -> Plan:
    workloads = tuple(
        workload.name
        for workload in WORKLOADS
        if not options.only
        or workload.name in options.only
        or any(point.name in options.only for point in workload.points)
    )
    # A workload's name means all of its points.
    points = tuple(
        point.name
        for workload in WORKLOADS
        for point in workload.points
        if workload.name in options.only or point.name in options.only
    )
    return Plan(
        workloads=workloads,
        gateways=options.gateways or tuple(TITLES),
        points=points,
        rounds=options.rounds,
        seconds=options.seconds,
        stream_seconds=options.stream_seconds or options.seconds * 1.25,
        minutes=options.minutes,
        is_quiet=options.quiet_gateways,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add(
        "--only",
        type=_names(WORKLOAD_NAMES + _POINTS),
        default=(),
        metavar="A,B",
        help=f"workloads ({', '.join(WORKLOAD_NAMES)}) or points of them (whole-32)",
    )
    add(
        "--gateways",
        type=_names(tuple(TITLES)),
        default=(),
        metavar="X,Y",
        help=", ".join(TITLES),
    )
    add("--rounds", type=_positive_int, default=3, help="3 by default")
    add("--seconds", type=_positive, default=4.0, help="a measurement; 4 by default")
    add(
        "--stream-seconds",
        type=_positive,
        help="a measurement of streams; a quarter more by default",
    )
    add(
        "--minutes",
        type=_positive,
        default=30.0,
        help="no round is begun that would end later; 30 by default",
    )
    add(
        "--quiet-gateways",
        action="store_true",
        help="no access lines of ours and ferrogw, which write them by default",
    )
    add("--output", type=Path, default=DEFAULT_OUTPUT, help="the file of results")
    return parser


def _names(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown)}: not one of {', '.join(known)}"
            )
        return names

    return parse


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError("must be above 0 and at most 600")
    return value


def _positive_int(text: str) -> int:
    return int(_positive(str(int(text))))
