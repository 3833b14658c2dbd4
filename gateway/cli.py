"""The command line: what each command takes, and how its mistakes are told."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from errno import EADDRINUSE
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gateway import __version__, key_commands
from gateway.access_log import configure_logging
from gateway.conformance import cli as conformance_cli
from gateway.demo import run_demo
from gateway.key_options import CommandProblem
from gateway.server import Address, serve
from gateway.settings import (
    Settings,
    SettingsProblem,
    load_settings,
    unknown_variables,
    variable_of,
)
from gateway.simulator import cli as simulator_cli
from policies.plan_files import load_plan_book
from policies.store.url import StoreUrlProblem
from policies.strict_yaml import FileProblems

PROGRAM = "llmtune-gateway"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 for a failure or 2 for a wrong call."""
    args = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except SettingsProblem as problem:
        return _complain(str(problem), 2)
    except StoreUrlProblem as problem:
        # Found when it is opened: a certificate that cannot be read.
        return _complain(f"{variable_of('store_url')}: {problem}", 2)
    except FileProblems as problems:
        return _complain(str(problems), 1)
    except CommandProblem as problem:
        return _complain(str(problem), problem.exit_code)
    except OSError as error:
        hint = "; choose another with --port" if error.errno == EADDRINUSE else ""
        text = f"{error.strerror or error}: {error.filename or ''}".strip(": ")
        return _complain(text + hint)
    except KeyboardInterrupt:
        return 130


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
    serving.add_argument("--workers", type=int, default=1)
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


def _settings() -> Settings:
    settings = load_settings(os.environ)
    configure_logging(settings.log_level)
    for line in unknown_variables(os.environ):
        print(f"{PROGRAM}: warning: {line}", file=sys.stderr)
    return settings


def _run(main_task: Coroutine[Any, Any, None]) -> int:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_task)
    return 0


def _serve(args: argparse.Namespace) -> int:
    settings = _settings()
    if args.workers != 1:
        # With memory:// each would count for itself, and the plan's limits would hold
        # nowhere; with a store, each would show the scraper its own metrics.
        return _complain(
            f"--workers {args.workers}: only 1 is allowed; for more cores run more"
            " replicas with one GATEWAY_STORE_URL",
            2,
        )
    return _run(serve(settings, Address(args.host, args.port, args.uds)))


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


def _complain(problem: str, code: int = 1) -> int:
    for line in problem.splitlines():
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    return code
