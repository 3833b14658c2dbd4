"""
`llmtune-gateway conformance`: its options, and the process around a run.

Values are checked here and not by argparse, whose complaints take several lines.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any, Final, TextIO, TypeVar
from urllib.parse import urlsplit

import httpx

from gateway.conformance.deployment import ANSWER_TIMEOUT_S, Deployment, Unusable
from gateway.conformance.findings import CHECKS
from gateway.conformance.observations import Evidence
from gateway.conformance.progress import Progress
from gateway.conformance.report import Report, report_of, to_json, to_table
from gateway.conformance.run import drive
from gateway.conformance.session import Session
from gateway.conformance.spending import Options, Spending, plan_spending

KEY_VARIABLE: Final = "LLMTUNE_GATEWAY_KEY"
# Steps of the run beside its loads, for the bar.
FIXED_STEPS: Final = 10
STEPS_PER_LOAD: Final = 3
INTERRUPTED: Final = 130


T = TypeVar("T")


class WrongCall(ValueError):
    """An option has a value it cannot have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
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
        ("--seconds", "N", 60, "no new part begins after this"),
        ("--concurrency", "N", 64, "requests in flight at once"),
        ("--unsafe-requests", "N", 1000, "fill limits of up to so many requests"),
        ("--unsafe-tokens", "N", 30_000, "fill limits of up to so many tokens"),
    ):
        parser.add_argument(
            flag,
            metavar=takes,
            default=str(default),
            help=f"{effect} (default {default})",
        )
    parser.add_argument(
        "--unsafe-fill-quotas",
        action="store_true",
        help="fill quotas too, which locks the workspace out until their window ends",
    )
    parser.add_argument(
        "--only", metavar="CHECK,...", help=f"of {', '.join(CHECKS)} (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    """Measure; 0 if every check passed, 1 if one failed, 2 if it could not be done."""
    try:
        options, base_urls = options_from(args), urls_from(args)
        api_key = key_from(args)
    except WrongCall as problem:
        return refuse(str(problem))
    work = measure(base_urls, api_key, args.model, options, is_json=args.json)
    try:
        with asyncio.Runner() as runner:
            report, spending = runner.run(stoppable(work))
    except Unusable as problem:
        return refuse(str(problem))
    except (KeyboardInterrupt, asyncio.CancelledError):
        refuse("interrupted; every stream and connection was given back")
        return INTERRUPTED
    if args.json:
        spent = {"requests": spending.requests, "tokens": spending.tokens}
        sys.stdout.write(to_json(report, spent).decode() + "\n")
    else:
        sys.stdout.write(to_table(report))
    return report.exit_code


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
        spending = plan_spending(first, options, len(base_urls))
        if stderr is not None:
            tell_spending(spending, first.title or first.plan, stderr)
        evidence = Evidence(replicas=len(base_urls), first=first)
        steps = FIXED_STEPS + STEPS_PER_LOAD * len(spending.loads)
        progress = Progress(stderr, steps)
        try:
            await drive(Session(deployment, evidence, options, progress), spending)
        finally:
            progress.end()
    report = report_of(
        evidence,
        model=deployment.model,
        base_urls=deployment.base_urls,
        only=options.only,
        seconds=time.perf_counter() - began_s,
    )
    return report, spending


def client_for(options: Options) -> httpx.AsyncClient:
    # Looks at the limits go on while every place for load is taken.
    most = options.concurrency + 8
    limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
    return httpx.AsyncClient(limits=limits, timeout=ANSWER_TIMEOUT_S)


def tell_spending(spending: Spending, plan: str, stream: TextIO) -> None:
    stream.write(
        f"plan {plan}: this run spends at most {spending.requests:,} requests and"
        f" {spending.tokens:,} tokens of it\n"
    )
    stream.flush()


def options_from(args: argparse.Namespace) -> Options:
    """What the command line allows; WrongCall names the flag."""
    checks = frozenset(CHECKS)
    if args.only is not None:
        checks = frozenset(part.strip() for part in args.only.split(","))
    if unknown := sorted(checks - frozenset(CHECKS)):
        raise WrongCall(f"--only: {unknown[0]!r} is none of {', '.join(CHECKS)}")
    return Options(
        seconds=number("--seconds", args.seconds, 5, 3600),
        concurrency=number("--concurrency", args.concurrency, 1, 1000),
        only=checks,
        max_requests=number("--unsafe-requests", args.unsafe_requests, 1, 100_000),
        max_tokens=number("--unsafe-tokens", args.unsafe_tokens, 1, 100_000_000),
        fill_quotas=args.unsafe_fill_quotas,
    )


def number(flag: str, text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    raise WrongCall(f"{flag}: {text!r} is not allowed, give {low} to {high}")


def urls_from(args: argparse.Namespace) -> list[str]:
    if not args.base_url:
        raise WrongCall("--base-url is missing: give one for each replica")
    for url in args.base_url:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise WrongCall(f"--base-url: {url!r} is no http:// or https:// URL")
    return list(args.base_url)


def key_from(args: argparse.Namespace) -> str:
    api_key: str = (args.key or os.environ.get(KEY_VARIABLE, "")).strip()
    if not api_key:
        raise WrongCall(f"no key: set {KEY_VARIABLE}, or give --key")
    if not (api_key.isascii() and api_key.isprintable()):
        raise WrongCall("--key: printable ASCII characters only")
    return api_key


def refuse(problem: str) -> int:
    sys.stderr.write(f"llmtune-gateway conformance: {problem}\n")
    return 2
