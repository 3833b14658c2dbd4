"""
The command line: what each command takes, and how its mistakes are told.

A command's parts are imported when it is the one that runs: all of them together take
longer than any should take to start.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gateway import __version__
from gateway.signals import end_by_default

if TYPE_CHECKING:
    from gateway.settings import Settings

PROGRAM = "llmtune-gateway"
# More than any machine that one replica should fill: a slip of the finger.
MOST_WORKERS = 64


class Command(NamedTuple):
    """What the list of commands says, and what tells a parser the rest."""

    help: str
    add_to: Callable[[argparse.ArgumentParser], None]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 for a failure or 2 for a wrong call."""
    # Until the command hears signals itself: imports take a while.
    end_by_default(signal.SIGTERM)
    args = _parser(sys.argv[1:] if arguments is None else arguments)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from gateway.complaints import complaint_of  # noqa: PLC0415

        complaint = complaint_of(error)
        if complaint is None:
            raise
        return _complain(complaint.text, complaint.exit_code)


def _parser(arguments: list[str]) -> argparse.Namespace:
    # The standard library's parser: eight commands need no framework to start slowly.
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="An OpenAI-compatible edge gateway for LLMTune."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    asked = next((each for each in arguments if not each.startswith("-")), "")
    for name, command in _COMMANDS.items():
        own = commands.add_parser(name, help=command.help)
        if name == asked:
            command.add_to(own)
    return parser.parse_args(arguments)


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--port", type=_port, default=8080)
    demo.set_defaults(run=_demo)


def _add_serve(serving: argparse.ArgumentParser) -> None:
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


def _add_health(health: argparse.ArgumentParser) -> None:
    health.add_argument("--host", default="127.0.0.1")
    health.add_argument("--port", type=_port, default=8080)
    health.add_argument("--uds", type=Path, help="ask at a Unix socket instead")
    health.add_argument(
        "--ready", action="store_true", help="whether it takes requests, not just lives"
    )
    health.set_defaults(run=_health)


def _add_simulate(simulate: argparse.ArgumentParser) -> None:
    from gateway.simulator import cli  # noqa: PLC0415

    cli.add_arguments(simulate)
    simulate.set_defaults(run=cli.run)


def _add_conformance(proving: argparse.ArgumentParser) -> None:
    from gateway.conformance import cli  # noqa: PLC0415

    cli.add_arguments(proving)
    proving.set_defaults(run=cli.run)


def _add_keys(keys: argparse.ArgumentParser) -> None:
    from gateway import key_commands  # noqa: PLC0415

    key_commands.add_arguments(keys)


def _add_webhooks(webhooks: argparse.ArgumentParser) -> None:
    from gateway import webhook_commands  # noqa: PLC0415

    webhook_commands.add_arguments(webhooks)


def _add_plans(plans: argparse.ArgumentParser) -> None:
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


_COMMANDS: Final = {
    "demo": Command("simulator and gateway, with keys to try", _add_demo),
    "serve": Command("the gateway, set by GATEWAY_* variables", _add_serve),
    "health": Command("whether a gateway on this machine lives", _add_health),
    "simulate": Command("a simulated LLMTune, with faults", _add_simulate),
    "conformance": Command(
        "prove the limiter of a running deployment", _add_conformance
    ),
    "plans": Command("check plan files, or show what they mean", _add_plans),
    "keys": Command("API keys: in the store, or for a file", _add_keys),
    "webhooks": Command("who is told of what, and what was not taken", _add_webhooks),
}


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
    from gateway.access_log import configure_logging  # noqa: PLC0415
    from gateway.settings import load_settings, unknown_variables  # noqa: PLC0415

    settings = load_settings(os.environ)
    configure_logging(settings.log_level, shares_output=shares_output)
    for line in unknown_variables(os.environ):
        print(f"{PROGRAM}: warning: {line}", file=sys.stderr)
    return settings


def _run(main_task: Coroutine[Any, Any, None]) -> int:
    import uvloop  # noqa: PLC0415

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main_task)
    return 0


def _serve(args: argparse.Namespace) -> int:
    from gateway.addresses import Address, check_exposure, check_ports  # noqa: PLC0415
    from gateway.key_options import CommandProblem  # noqa: PLC0415
    from gateway.server import serve  # noqa: PLC0415
    from policies.store.url import parse_store_url  # noqa: PLC0415

    address = Address(args.host, args.port, args.uds)
    settings = _settings(shares_output=args.workers > 1)
    check_exposure(settings, address)
    check_ports(settings, address)
    if args.workers == 1:
        return _run(serve(settings, address))
    if parse_store_url(settings.store_url).kind == "memory":
        raise CommandProblem(
            f"--workers {args.workers} needs a GATEWAY_STORE_URL: with memory:// each"
            " worker would count for itself, and a plan's limits would hold nowhere",
            2,
        )
    from gateway.workers.supervisor import supervise  # noqa: PLC0415

    return supervise(settings, address, workers=args.workers)


def _demo(args: argparse.Namespace) -> int:
    from gateway.demo import run_demo  # noqa: PLC0415
    from gateway.settings import load_settings  # noqa: PLC0415

    return _run(run_demo(load_settings(os.environ), port=args.port))


def _health(args: argparse.Namespace) -> int:
    from gateway.health import ask  # noqa: PLC0415

    path = "/readyz" if args.ready else "/livez"
    problem = ask(path, host=args.host, port=args.port, uds=args.uds)
    return 0 if problem is None else _complain(problem, 1)


def _plans_dir(args: argparse.Namespace) -> Path | None:
    from gateway.settings import load_settings  # noqa: PLC0415

    directory: Path | None = args.directory
    return directory if directory is not None else load_settings(os.environ).plans_dir


def _plans_check(args: argparse.Namespace) -> int:
    from policies.plan_files import load_plan_book  # noqa: PLC0415

    book = load_plan_book(_plans_dir(args))
    print(f"{len(book.names)} plans are good: {', '.join(book.names)}")
    return 0


def _plans_show(args: argparse.Namespace) -> int:
    import msgspec  # noqa: PLC0415

    from policies.plan_files import load_plan_book  # noqa: PLC0415

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
