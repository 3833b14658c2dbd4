"""
The name under which what a limit counts is kept, whatever plan the limit is from.

`r/minute` is a rate of requests, `t@month` a quota of tokens, `leases` the concurrency;
`#` and a key's scope follow where it is the key's own limit. Short, because every
workspace has some of them in the store.
"""

from __future__ import annotations

from typing import Final

from policies.plans import Concurrency, Limit, Quota, Rate, Unit

LEASES: Final = "leases"
_LETTER: Final[dict[Unit, str]] = {"requests": "r", "tokens": "t"}


def dimension_of(limit: Limit, scope_id: str = "") -> str:
    """Where a limit is counted; `scope_id` is a key's, or empty: the workspace's."""
    suffix = f"#{scope_id}" if scope_id else ""
    match limit:
        case Concurrency():
            return LEASES + suffix
        case Rate():
            return f"{_LETTER[limit.of]}/{limit.per}{suffix}"
        case Quota():
            return f"{_LETTER[limit.of]}@{limit.per}{suffix}"
