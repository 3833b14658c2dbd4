"""
What the `keys` commands take, and how mistakes in it are told.

A key made here passes the same checks as one in a keys file; a problem names the option
instead of the field.
"""

from __future__ import annotations

import argparse
import re
from datetime import timedelta
from typing import Any, Final

import msgspec

from policies.keyring import KEY_ID_CHARS, KEY_PREFIX, KeyRecord, check_keys
from policies.plan_files import PlanBook
from policies.plans import Concurrency, KeyLimits, Quota, Rate
from policies.strict_yaml import Findings, Problem

_SECONDS_OF: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
# Six digits of weeks are 19,000 years: longer is a slip of the finger.
_DURATION_FORM: Final = re.compile(r"(\d{1,6})([smhdw])")
_KEY_ID_FORM: Final = re.compile(rf"[0-9a-f]{{{KEY_ID_CHARS},64}}")
_LIMIT_FORM: Final = re.compile(
    r"(?P<of>[a-z]+):(?P<limit>\d{1,15})/(?P<per>[a-z]+)"
    r"(,burst=(?P<burst>\d{1,15}))?(?P<shadow>,shadow)?"
)
# Ten thousand years are where dates end.
_LONGEST: Final = timedelta(days=100 * 366)

_FIRST_KEY: Final = "keys[0]."
_OPTIONS: Final = {
    "workspace": "--workspace",
    "plan": "--plan",
    "name": "--name",
    "models": "--models",
    "expires_at": "--expires-at",
    "limits.rates": "--rate",
    "limits.quotas": "--quota",
    "limits.concurrency": "--concurrency",
}


class CommandProblem(Exception):
    """Why a command was not done; exit code 2 for a wrong call, 1 for a failure."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def duration(text: str) -> timedelta:
    """A time as `90d`, `24h`, `30m`, `45s` or `2w`."""
    found = _DURATION_FORM.fullmatch(text)
    if found is not None:
        length = timedelta(seconds=int(found[1]) * _SECONDS_OF[found[2]])
        if length <= _LONGEST:
            return length
    raise argparse.ArgumentTypeError(
        f"must be a time such as 45s, 30m, 24h, 90d or 2w, not {text[:32]!r}"
    )


def key_id(text: str) -> str:
    """The beginning of a key's digest."""
    if text.startswith(KEY_PREFIX):
        # Not repeated, and too late: it is in the shell's history.
        raise argparse.ArgumentTypeError(
            "is an API key; give its id, which `keys hash` makes of a key on standard"
            f" input: the first {KEY_ID_CHARS} digits of the digest"
        )
    if _KEY_ID_FORM.fullmatch(text.lower()):
        return text.lower()
    raise argparse.ArgumentTypeError(
        f"must be a key id, {KEY_ID_CHARS} or more of the digits 0-9 a-f"
    )


def limit(text: str) -> dict[str, Any]:
    """A limit's fields, of `requests:60/minute,burst=120`."""
    found = _LIMIT_FORM.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"must be such as requests:60/minute or tokens:5000/hour, not {text[:64]!r}"
        )
    fields: dict[str, Any] = {
        "of": found["of"],
        "limit": int(found["limit"]),
        "per": found["per"],
    }
    if found["burst"]:
        fields["burst"] = int(found["burst"])
    if found["shadow"]:
        fields["shadow"] = True
    return fields


def limits_in_words(limits: KeyLimits | None) -> list[str]:
    """Limits as the options write them."""
    return [_in_words(each) for each in limits.limits] if limits else []


def _in_words(each: Rate | Quota | Concurrency) -> str:
    shadow = ",shadow" if each.shadow else ""
    if isinstance(each, Concurrency):
        return f"concurrency:{each.limit}{shadow}"
    burst = f",burst={each.burst}" if isinstance(each, Rate) and each.burst else ""
    return f"{each.of}:{each.limit}/{each.per}{burst}{shadow}"


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """What a new key may be given."""
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--name", help="whose or what for, one line")
    parser.add_argument("--models", help="comma-separated ids or globs; default: all")
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--expires-at", help="such as 2027-01-31T00:00:00Z")
    ending.add_argument("--ttl", type=duration, help="such as 90d")
    limits = parser.add_argument_group(
        "limits of the key's own", "besides the plan's, which the workspace shares"
    )
    limits.add_argument(
        "--rate",
        type=limit,
        action="append",
        default=[],
        metavar="OF:N/PER[,burst=N]",
        help="such as requests:60/minute; may be repeated",
    )
    limits.add_argument(
        "--quota",
        type=limit,
        action="append",
        default=[],
        metavar="OF:N/PER",
        help="such as tokens:1000000/month; may be repeated",
    )
    limits.add_argument("--concurrency", type=int, metavar="N")


def to_record(args: argparse.Namespace, digest: str, book: PlanBook) -> KeyRecord:
    """The record of a new key as the options describe it, but for `--ttl`."""
    fields = _fields(args, digest)
    findings = Findings("")
    check_keys({"keys": [fields]}, findings)
    if not findings.problems and args.plan not in book.names:
        problem = f"is not a plan; there are {', '.join(book.names)}"
        findings.add(f"{_FIRST_KEY}plan", problem)
    if findings.problems:
        raise CommandProblem("\n".join(map(_told, findings.problems)), 2)
    return msgspec.convert(fields, KeyRecord)


def _fields(args: argparse.Namespace, digest: str) -> dict[str, Any]:
    limits: dict[str, Any] = {"rates": args.rate, "quotas": args.quota}
    if args.concurrency is not None:
        limits["concurrency"] = {"limit": args.concurrency}
    models = args.models and [part.strip() for part in args.models.split(",")]
    fields = {
        "sha256": digest,
        "workspace": args.workspace,
        "plan": args.plan,
        "name": args.name,
        "models": models,
        "limits": limits if any(limits.values()) else None,
        "expires_at": args.expires_at,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _told(problem: Problem) -> str:
    field = problem.field.removeprefix(_FIRST_KEY)
    for known, option in _OPTIONS.items():
        if field.startswith(known):
            rest = re.sub(r"^\[\d+\]|^\.|(?<=\])\.", "", field.removeprefix(known))
            text = problem.problem.replace(_FIRST_KEY, "")
            return ": ".join(part for part in (option, rest, text) if part)
    return str(problem)
