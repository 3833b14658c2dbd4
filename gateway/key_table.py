"""Keys of the store as people and programs read them; never the keys themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.columns import in_columns
from gateway.key_options import limits_in_words
from policies.key_store import Found, StoredKey
from policies.keyring import KEY_ID_CHARS

# Of a digest, where the usual digits name several keys.
LONG_ID_CHARS: Final = 16

_COLUMNS: Final[tuple[str, ...]] = (
    *("KEY ID", "WORKSPACE", "PLAN", "NAME", "STATE"),
    *("CREATED", "EXPIRES", "MODELS", "LIMITS"),
)


def to_table(found: Iterable[Found], now: datetime) -> str:
    """One line a key below a heading, in columns as wide as they must be."""
    listed = list(found)
    same = Counter(key.sha256[:KEY_ID_CHARS] for key in listed)
    rows = []
    for each in listed:
        is_unique = same[each.sha256[:KEY_ID_CHARS]] == 1
        shown = each.sha256[: KEY_ID_CHARS if is_unique else LONG_ID_CHARS]
        rows.append((shown, *_cells(each.key, now)))
    return in_columns(_COLUMNS, rows)


def to_json(key: StoredKey, now: datetime) -> dict[str, Any]:
    """Everything that is known of a key."""
    fields: dict[str, Any] = msgspec.to_builtins(key)
    return {"key_id": key.key_id, "state": state_of(key, now), **fields}


def found_to_json(found: Found, now: datetime) -> dict[str, Any]:
    """The same for what may be unreadable."""
    if found.key is not None:
        return to_json(found.key, now)
    shown = found.sha256[:KEY_ID_CHARS]
    return {"key_id": shown, "state": "unreadable", "sha256": found.sha256}


def state_of(key: StoredKey, now: datetime) -> str:
    if key.is_expired(now):
        return "expired"
    return "rotating" if key.is_rotating(now) else "active"


def in_words(when: datetime | None) -> str:
    """A time to the second, in UTC."""
    if when is None:
        return "never"
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cells(key: StoredKey | None, now: datetime) -> tuple[str, ...]:
    if key is None:
        # Written by a newer version; this one serves it to nobody.
        return ("?", "?", "", "unreadable", "", "", "", "")
    state = state_of(key, now)
    if state == "rotating":
        state = f"rotating until {in_words(key.expires_at)}"
    return (
        key.workspace,
        key.plan,
        key.name or "",
        state,
        in_words(key.created_at),
        in_words(key.expires_at),
        "plan's" if key.models is None else ",".join(key.models),
        " ".join(limits_in_words(key.limits)) or "plan's",
    )
