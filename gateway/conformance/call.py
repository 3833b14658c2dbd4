"""
A call of the command: what its options may be.

Values are checked here and not by argparse, whose complaints take several lines. Those
that are left to argparse, such as an unknown option, end in one document with --json.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Final, NoReturn, get_args

import httpx

from gateway.conformance.findings import CHECKS
from gateway.conformance.output import WRONG_CALL, tell_problem
from gateway.conformance.spending import OnSkip, Options

KEY_VARIABLE: Final = "LLMTUNE_GATEWAY_KEY"
EXIT_CODES: Final = """exit codes:
  0    every promise of the plan was judged and kept
  1    at least one was broken
  2    a wrong call, a deployment that cannot be measured, or nothing was judged
  3    incomplete: none was broken, but not all could be judged (see --on-skip)
  130  interrupted; everything was given back
"""


class WrongCall(ValueError):
    """An option has a value it cannot have."""


class CallParser(argparse.ArgumentParser):
    """Tells its own complaints as a document too, where one was asked for."""

    is_json = False

    # Overloaded there for namespaces of other classes, which nobody passes.
    def parse_known_args(  # type: ignore[override]
        self,
        args: Iterable[str] | None = None,
        namespace: argparse.Namespace | None = None,
    ) -> tuple[argparse.Namespace, list[str]]:
        args = sys.argv[1:] if args is None else list(args)
        self.is_json = "--json" in args
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            # Handed on, the command line's parser would end without a document.
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(tell_problem(message, WRONG_CALL, is_json=self.is_json))


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
        on_skip=on_skip_from(args.on_skip),
    )


def on_skip_from(text: str) -> OnSkip:
    choices: tuple[OnSkip, ...] = get_args(OnSkip)
    for choice in choices:
        if choice == text:
            return choice
    raise WrongCall(f"--on-skip: {text!r} is none of {', '.join(choices)}")


def number(flag: str, text: str, low: int, high: int) -> int:
    # int() of more digits than it takes would raise.
    is_short = len(text) <= len(str(high))
    if is_short and text.isascii() and text.isdigit() and low <= int(text) <= high:
        return int(text)
    raise WrongCall(f"{flag}: {text!r} is not allowed, give {low} to {high}")


def urls_from(args: argparse.Namespace) -> list[str]:
    """The replicas, each once, as their root."""
    if not args.base_url:
        raise WrongCall("--base-url is missing: give one for each replica")
    urls: list[str] = []
    for text in args.base_url:
        url = root_from(text)
        if url in urls:
            raise WrongCall(
                f"--base-url: {url} is given twice, and would agree with itself;"
                " give each replica's own URL"
            )
        urls.append(url)
    return urls


def root_from(text: str) -> str:
    """Where the gateway is, without `/v1`; one replica has one such root."""
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL as problem:
        raise WrongCall(f"--base-url: {text!r}: {problem}") from None
    if url.userinfo:
        # Not repeated here: it is a secret.
        raise WrongCall("--base-url: no user and password in a URL; the key is --key")
    if url.scheme not in {"http", "https"} or not url.host:
        raise WrongCall(f"--base-url: {text!r} is no http:// or https:// URL")
    if url.port is not None and not 0 < url.port < 65_536:
        raise WrongCall(f"--base-url: {text!r}: a port is from 1 to 65535")
    if url.query or url.fragment or "?" in text or "#" in text:
        raise WrongCall(f"--base-url: {text!r} has a query or fragment; leave it out")
    return str(url).rstrip("/").removesuffix("/v1").rstrip("/")


def key_from(args: argparse.Namespace) -> str:
    api_key: str = (args.key or os.environ.get(KEY_VARIABLE, "")).strip()
    if not api_key:
        raise WrongCall(f"no key: set {KEY_VARIABLE}, or give --key")
    if not (api_key.isascii() and api_key.isprintable()):
        raise WrongCall("--key: printable ASCII characters only")
    return api_key
