"""What may be the name of a workspace or a plan: it goes into keys, labels and logs."""

from __future__ import annotations

import re
from typing import Final

_WORKSPACE_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Lower case, because a plan's name is also a file's name, and some file systems fold.
_PLAN_FORM: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def find_workspace_problem(workspace: str) -> str | None:
    """What is wrong with a workspace's name, or None."""
    if _WORKSPACE_FORM.fullmatch(workspace):
        return None
    return "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"


def find_plan_name_problem(plan: str) -> str | None:
    """What is wrong with a plan's name, or None."""
    if _PLAN_FORM.fullmatch(plan):
        return None
    return "must be 1 to 64 of the characters a-z 0-9 . _ - and begin with a-z or 0-9"
