"""Which mistakes end a command with one line, and with which exit code."""

from __future__ import annotations

from errno import EADDRINUSE
from typing import NamedTuple

from gateway.key_options import CommandProblem
from gateway.settings import SettingsProblem, variable_of
from policies.store.url import StoreUrlProblem
from policies.strict_yaml import FileProblems


class Complaint(NamedTuple):
    """What is said, and the exit code: 1 for a failure or 2 for a wrong call."""

    text: str
    exit_code: int


def complaint_of(error: BaseException) -> Complaint | None:
    """None where it is no mistake of the caller's, and so a bug of ours."""
    match error:
        case SettingsProblem():
            return Complaint(str(error), 2)
        case StoreUrlProblem():
            # Found when it is opened: a certificate that cannot be read.
            return Complaint(f"{variable_of('store_url')}: {error}", 2)
        case FileProblems():
            return Complaint(str(error), 1)
        case CommandProblem():
            return Complaint(str(error), error.exit_code)
        case OSError():
            hint = "; choose another with --port" if error.errno == EADDRINUSE else ""
            text = f"{error.strerror or error}: {error.filename or ''}".strip(": ")
            return Complaint(text + hint, 1)
        case _:
            return None
