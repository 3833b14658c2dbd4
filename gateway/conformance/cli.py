"""`llmtune-gateway conformance`: its options, and the process around a run."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, TextIO, TypeVar

import httpx

from gateway.conformance.call import (
    EXIT_CODES,
    KEY_VARIABLE,
    CallParser,
    WrongCall,
    key_from,
    options_from,
    urls_from,
)
from gateway.conformance.deployment import ANSWER_TIMEOUT_S, Deployment, Unusable
from gateway.conformance.findings import CHECKS
from gateway.conformance.observations import Evidence
from gateway.conformance.output import (
    INTERRUPTED,
    WRONG_CALL,
    tell,
    tell_problem,
    tell_report,
)
from gateway.conformance.progress import Progress
from gateway.conformance.report import Report, has_accusation, report_of
from gateway.conformance.run import drive, watch_for_others
from gateway.conformance.session import Session
from gateway.conformance.spending import Options, Spending, plan_spending
from gateway.conformance.table import printable

# Steps of the run beside its loads, for the bar.
FIXED_STEPS: Final = 10
STEPS_PER_LOAD: Final = 3


T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Made by the command line, which knows one class for all its commands.
    parser.__class__ = CallParser
    parser.epilog = EXIT_CODES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--base-url",
        action="append",
        metavar="URL",
        help="a replica, or what stands before all of them (repeatable)",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help=f"API key, best of a workspace of its own (default: {KEY_VARIABLE})",
    )
    parser.add_argument("--model", metavar="M", help="default: the first one listed")
    for flag, takes, default, effect in (
        ("--seconds", "N", "60", "no new part begins after this"),
        ("--concurrency", "N", "64", "requests in flight at once"),
        ("--unsafe-requests", "N", "1000", "fill limits of up to so many requests"),
        ("--unsafe-tokens", "N", "30000", "fill limits of up to so many tokens"),
        (
            "--on-skip",
            "CODE",
            "incomplete",
            "exit code for what was promised and not judged: incomplete (3),"
            " fail (1) or pass (0)",
        ),
    ):
        parser.add_argument(
            flag, metavar=takes, default=default, help=f"{effect} (default {default})"
        )
    parser.add_argument(
        "--unsafe-fill-quotas",
        action="store_true",
        help="fill quotas too, which locks the workspace out until their window ends",
    )
    parser.add_argument(
        "--only", metavar="CHECK,...", help=f"of {', '.join(CHECKS)} (default: all)"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON document, however it ends"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, and tell; the exit codes are those of the help text."""
    is_json: bool = args.json
    try:
        options, base_urls = options_from(args), urls_from(args)
        api_key = key_from(args)
        work = measure(base_urls, api_key, args.model, options, is_json=is_json)
        with asyncio.Runner() as runner:
            report, spending = runner.run(stoppable(work))
    except (WrongCall, Unusable) as problem:
        return tell_problem(str(problem), WRONG_CALL, is_json=is_json)
    except (KeyboardInterrupt, asyncio.CancelledError):
        text = "interrupted; every stream and connection was given back"
        return tell_problem(text, INTERRUPTED, is_json=is_json)
    except Exception as error:  # noqa: BLE001 - exit code 1 accuses the deployment
        return tell_problem(unexpected(error), WRONG_CALL, is_json=is_json)
    spent = {"requests": spending.requests, "tokens": spending.tokens}
    return tell_report(report, spent, is_json=is_json)


def unexpected(error: Exception) -> str:
    """A mistake of ours, or of this machine's set-up, in one line."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return f"nothing was judged: {type(error).__name__}: {error}"


async def stoppable(work: Coroutine[Any, Any, T]) -> T:
    """SIGTERM ends the run as Ctrl-C does: cancelled, with everything given back."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def measure(
    base_urls: list[str],
    api_key: str,
    model: str | None,
    options: Options,
    *,
    is_json: bool = False,
) -> tuple[Report, Spending]:
    """Look, say what it may cost, drive, judge."""
    began_s = time.perf_counter()
    stderr = None if is_json else sys.stderr
    async with client_for(options) as client:
        deployment = Deployment(client, base_urls, api_key, model)
        await deployment.choose_model()
        first = await deployment.look(0)
        if not first.enforced:
            plan = first.title or first.plan
            raise Unusable(f"plan {plan} limits nothing: give a key of one that does")
        spending = plan_spending(first, options, len(base_urls))
        tell_spending(spending, first.title or first.plan, stderr)
        evidence = Evidence(replicas=len(base_urls), first=first)
        steps = FIXED_STEPS + STEPS_PER_LOAD * len(spending.loads)
        session = Session(deployment, evidence, options, Progress(stderr, steps))

        def judged() -> Report:
            return report_of(
                evidence,
                model=deployment.model,
                base_urls=deployment.base_urls,
                only=options.only,
                seconds=time.perf_counter() - began_s,
                on_skip=options.on_skip,
            )

        report = await judged_run(session, spending, judged)
    return report, spending


async def judged_run(
    session: Session, spending: Spending, judged: Callable[[], Report]
) -> Report:
    """Drive and judge; before anything is accused, others get time to show up."""
    try:
        await drive(session, spending)
        report = judged()
        if has_accusation(report):
            await watch_for_others(session)
            report = judged()
        return report
    except Unusable as problem:
        asked = len(session.evidence.attempts)
        raise Unusable(
            f"{problem} (while {session.progress.now}, after {asked} requests;"
            " nothing was judged)"
        ) from None
    finally:
        session.progress.end()


def client_for(options: Options) -> httpx.AsyncClient:
    # Looks at the limits go on while every place for load is taken.
    most = options.concurrency + 8
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return httpx.AsyncClient(limits=limits, timeout=ANSWER_TIMEOUT_S)


def tell_spending(spending: Spending, plan: str, stream: TextIO | None) -> None:
    text = (
        f"plan {printable(plan)}: this run spends at most"
        f" {spending.requests:,} requests and {spending.tokens:,} tokens of it\n"
    )
    tell(stream, text)
