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

from gateway import __version__
from gateway.access_log import configure_logging
from gateway.demo import run_demo
from gateway.server import Address, serve
from gateway.settings import Settings, SettingsProblem, load_settings, unknown_variables
from gateway.simulator import cli as simulator_cli
from policies.keyring import digest_of, new_api_key
from policies.plan_files import load_plan_book
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
    except FileProblems as problems:
        return _complain(str(problems), 1)
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

    _add_plans(commands)
    _add_keys(commands)
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


def _add_keys(commands: Any) -> None:
    keys = commands.add_parser("keys", help="lines for a keys file")
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION")
    hashing = actions.add_parser(
        "hash", help="the keys-file line of a key read from standard input"
    )
    hashing.add_argument(
        "--new", action="store_true", help="make a key and print it once, to stderr"
    )
    hashing.add_argument("--workspace", default="my-workspace")
    hashing.add_argument("--plan", default="sandbox")
    hashing.set_defaults(run=_keys_hash)


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
        # Each process would count for itself, and the plan's limits would hold nowhere.
        return _complain(
            f"--workers {args.workers}: the memory:// store counts within one process;"
            " only 1 is allowed",
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


def _keys_hash(args: argparse.Namespace) -> int:
    if args.new:
        api_key = new_api_key()
        print(f"the key, shown this once: {api_key}", file=sys.stderr)
    else:
        # From standard input: an argument would stay in the shell's history.
        api_key = sys.stdin.readline().strip()
        if not api_key:
            return _complain("no key on standard input", 2)
    record = {
        "sha256": digest_of(api_key),
        "workspace": args.workspace,
        "plan": args.plan,
    }
    # One line, to be appended below `keys:`.
    sys.stdout.write(f"- {msgspec.json.encode(record).decode()}\n")
    return 0


def _complain(problem: str, code: int = 1) -> int:
    for line in problem.splitlines():
        print(f"{PROGRAM}: {line}", file=sys.stderr)
    return code
