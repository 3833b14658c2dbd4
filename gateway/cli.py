"""The command line: what each command takes, and how its mistakes are told."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gateway import __version__, key_commands
from gateway.access_log import configure_logging
from gateway.complaints import complaint_of
from gateway.conformance import cli as conformance_cli
from gateway.demo import run_demo
from gateway.key_options import CommandProblem
from gateway.server import Address, check_exposure, serve
from gateway.settings import Settings, load_settings, unknown_variables
from gateway.simulator import cli as simulator_cli
from gateway.workers.supervisor import supervise
from policies.plan_files import load_plan_book
from policies.store.url import parse_store_url

PROGRAM = "llmtune-gateway"
# More than any machine that one replica should fill: a slip of the finger.
MOST_WORKERS = 64


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 for a failure or 2 for a wrong call."""
    args = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        complaint = complaint_of(error)
        if complaint is None:
            raise
        return _complain(complaint.text, complaint.exit_code)


def _parser() -> argparse.ArgumentParser:
    # The standard library's parser: seven commands need no framework to start slowly.
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="An OpenAI-compatible edge gateway for LLMTune."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="simulator and gateway, with keys to try")
    demo.add_argument("--port", type=_port, default=8080)
    demo.set_defaults(run=_demo)

    serving = commands.add_parser(
        "serve", help="the gateway, set by GATEWAY_* variables"
    )
    serving.add_argument("--host", default="127.0.0.1")
    serving.add_argument("--port", type=_port, default=8080)
    serving.add_argument("--uds", type=Path, help="listen on a Unix socket instead")
    serving.add_argument(
        "--workers",
        type=_workers,
        default=1,
        metavar="N",
        help="processes that serve it, of one replica; above 1 they need a store",
    )
    serving.set_defaults(run=_serve)

    simulate = commands.add_parser("simulate", help="a simulated LLMTune, with faults")
    simulator_cli.add_arguments(simulate)
    simulate.set_defaults(run=simulator_cli.run)

    proving = commands.add_parser(
        "conformance", help="prove the limiter of a running deployment"
    )
    conformance_cli.add_arguments(proving)
    proving.set_defaults(run=conformance_cli.run)

    _add_plans(commands)
    keys = commands.add_parser("keys", help="API keys: in the store, or for a file")
    key_commands.add_arguments(keys)
    return parser


def _add_plans(commands: Any) -> None:
    plans = commands.add_parser(
        "plans", help="check plan files, or show what they mean"
    )
    actions = plans.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, run, text in (
        ("check", _plans_check, "read them as the server would"),
        ("show", _plans_show, "print every plan as it is in force"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument(
            "directory",
            type=Path,
            nargs="?",
            metavar="DIR",
            help="default: GATEWAY_PLANS_DIR, else the shipped plans",
        )
        action.set_defaults(run=run)


def _port(text: str) -> int:
    if text.isdigit() and int(text) <= 65_535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")


def _workers(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= MOST_WORKERS:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of workers (1 to {MOST_WORKERS})"
    )


def _settings(*, shares_output: bool = False) -> Settings:
    settings = load_settings(os.environ)
    configure_logging(settings.log_level, shares_output=shares_output)
    for line in unknown_variables(os.environ):
        print(f"{PROGRAM}: warning: {line}", file=sys.stderr)
    return settings


def _run(main_task: Coroutine[Any, Any, None]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_task)
    return 0


def _serve(args: argparse.Namespace) -> int:
    address = Address(args.host, args.port, args.uds)
    settings = _settings(shares_output=args.workers > 1)
    check_exposure(settings, address)
    if args.workers == 1:
        return _run(serve(settings, address))
    if parse_store_url(settings.store_url).kind == "memory":
        raise CommandProblem(
            f"--workers {args.workers} needs a GATEWAY_STORE_URL: with memory:// each"
            " worker would count for itself, and a plan's limits would hold nowhere",
            2,
        )
    return supervise(settings, address, workers=args.workers)


def _demo(args: argparse.Namespace) -> int:
    return _run(run_demo(load_settings(os.environ), port=args.port))


def _plans_dir(args: argparse.Namespace) -> Path | None:
    directory: Path | None = args.directory
    return directory if directory is not None else load_settings(os.environ).plans_dir


def _plans_check(args: argparse.Namespace) -> int:
    book = load_plan_book(_plans_dir(args))
    print(f"{len(book.names)} plans are good: {', '.join(book.names)}")
    return 0


def _plans_show(args: argparse.Namespace) -> int:
    book = load_plan_book(_plans_dir(args))
    shown = [msgspec.to_builtins(plan) for plan in book.plans]
    for (plan, workspace), override in sorted(book.overrides.items()):
        shown.append({"workspace": workspace, **msgspec.to_builtins(override)})
        assert plan == override.plan  # noqa: S101 - an override keeps its plan's name
    sys.stdout.write(msgspec.yaml.encode(shown).decode())
    return 0


def _complain(problem: str, code: int) -> int:
    for line in problem.splitlines():
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    return code
