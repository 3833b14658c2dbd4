"""Lists by cursor, as OpenAI's SDKs page through them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec

from gateway.errors import InvalidRequest
from gateway.exchange import Exchange

# Of a thousand digits int() makes an error of its own.
_DIGITS: Final = re.compile(r"[0-9]{1,18}")


class Cursor(msgspec.Struct, frozen=True):
    """Which part of a list is asked for."""

    after: str | None
    limit: int
    newest_first: bool
    # What else was asked, by name; of several of a name, the last.
    said: dict[str, str]


def cursor_of(exchange: Exchange, *, usual: int, most: int) -> Cursor:
    """`after`, `limit` and `order` of the query."""
    query = exchange.wire.head.query.decode("latin-1")
    try:
        parsed = parse_qs(query, max_num_fields=32)
    except ValueError:
        raise InvalidRequest("The query has too many parameters.") from None
    said = {name: values[-1] for name, values in parsed.items()}
    limit = whole_number(said.get("limit", str(usual)), 1, most)
    if limit is None:
        raise InvalidRequest(f"limit has to be 1 to {most}.", param="limit")
    order = said.get("order", "desc")
    if order not in {"asc", "desc"}:
        raise InvalidRequest("order has to be asc or desc.", param="order")
    return Cursor(said.get("after") or None, limit, order == "desc", said)


def whole_number(text: str, least: int, most: int) -> int | None:
    """The number that a text is, within these bounds; None if it is none."""
    number = int(text) if _DIGITS.fullmatch(text) else -1
    return number if least <= number <= most else None


def list_of(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page in OpenAI's form."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
