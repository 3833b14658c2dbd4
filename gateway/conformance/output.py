"""
What is printed where, even to a pipe that breaks, a full disk or a closed stream.

An exit code says what was found of the deployment. That a line could not be printed
must neither change it unseen nor look like a failure.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any, Final, TextIO

import msgspec

from gateway.conformance.report import Report
from gateway.conformance.table import printable, to_table

WRONG_CALL: Final = 2
INTERRUPTED: Final = 130
# Of a terminal that does not say how wide it is.
DEFAULT_COLUMNS: Final = 80


def columns_of(stream: TextIO | None) -> int | None:
    """How wide the terminal is; None if it is none."""
    if stream is None or not stream.isatty():
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or DEFAULT_COLUMNS
    except OSError:
        return DEFAULT_COLUMNS


def tell_report(report: Report, spent_at_most: dict[str, int], *, is_json: bool) -> int:
    """The report on standard output; the exit code."""
    if is_json:
        told: dict[str, Any] = msgspec.to_builtins(report)
        failure = _tell_document(told | {"spends_at_most": spent_at_most})
    else:
        failure = tell(sys.stdout, to_table(report, columns_of(sys.stdout)))
    # Who closes a pipe has read enough, as `head` does; anything else lost the report.
    if failure is None or isinstance(failure, BrokenPipeError):
        return report.exit_code
    complain(f"{report.verdict}, but the report could not be written: {failure}")
    return WRONG_CALL


def tell_problem(problem: str, exit_code: int, *, is_json: bool) -> int:
    """No report: a line for people, and one document for programs; the exit code."""
    complain(problem)
    if is_json:
        is_interrupted = exit_code == INTERRUPTED
        document: dict[str, Any] = {
            "object": "conformance",
            "verdict": "interrupted" if is_interrupted else "error",
            "exit_code": exit_code,
            "error": problem,
            "checks": [],
        }
        _tell_document(document)
    return exit_code


def complain(problem: str) -> None:
    tell(sys.stderr, f"llmtune-gateway conformance: {printable(problem)}\n")


def tell(stream: TextIO | None, text: str) -> OSError | None:
    """Write at once; what prevented it, if anything did."""
    if stream is None:
        return None
    # A terminal of fewer characters shows escapes instead.
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text)
        stream.flush()
    except OSError as failure:
        _give_up(stream)
        return failure
    return None


def _tell_document(document: dict[str, Any]) -> OSError | None:
    # ASCII only, so that it is valid in whatever encoding standard output has.
    return tell(sys.stdout, json.dumps(document, indent=2) + "\n")


def _give_up(stream: TextIO) -> None:
    # What is still buffered would be written once more at exit, fail once more and
    # become exit code 120.
    with suppress(OSError), open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), stream.fileno())
