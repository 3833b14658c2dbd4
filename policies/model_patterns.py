"""
Which models a plan or a key may use: exact ids, or globs whose `*` crosses slashes.

A glob is matched by plain substring search, never by a regular expression: ids hold
dots and slashes, and a pattern from a file must not be able to make matching slow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

# The longest ids seen are fine-tunes with a suffix, under 130 characters.
MAX_PATTERN_CHARS: Final = 256
# Each star is one more search through the id; nobody needs more than two.
MAX_STARS: Final = 4

# What other glob dialects treat as special is refused, so that nobody relies on it.
_PATTERN_FORM: Final = re.compile(r"[A-Za-z0-9._:/@+=,~*-]+")


def matches_any(patterns: Iterable[str], model: str) -> bool:
    """Whether one of the patterns names the model."""
    return any(
        pattern in ("*", model) or ("*" in pattern and _matches(pattern, model))
        for pattern in patterns
    )


def find_pattern_problem(pattern: str) -> str | None:
    """What is wrong with a pattern as written in a file, or None."""
    if not pattern:
        return "must not be empty"
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"must have at most {MAX_PATTERN_CHARS} characters"
    if not _PATTERN_FORM.fullmatch(pattern):
        return "must be a model id, where only * stands for other text"
    if "**" in pattern or pattern.count("*") > MAX_STARS:
        return f"must have at most {MAX_STARS} *, and never two in a row"
    return None


def _matches(pattern: str, model: str) -> bool:
    head, *middles, tail = pattern.split("*")
    if len(model) < len(head) + len(tail):
        return False
    if not (model.startswith(head) and model.endswith(tail)):
        return False
    position, end = len(head), len(model) - len(tail)
    # Taking each piece at its first place leaves the most room for those after it.
    for piece in middles:
        found = model.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True
