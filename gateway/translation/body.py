"""
Request bodies from bytes: decoded once, strictly, with the parameter at fault named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn, TypeVar, get_args

import msgspec

from gateway.errors import InvalidRequest

T = TypeVar("T")

# msgspec writes "<complaint> - at `$.messages[0].role`", or names a missing field; of a
# dict's key it writes "at `key` in `$.metadata`".
_AT: Final = re.compile(
    r"^(?P<complaint>.*) - at (`key` in )?`\$\.?(?P<path>[^`]*)`$", re.DOTALL
)
_MISSING: Final = re.compile(r"^Object missing required field `(?P<field>[^`]+)`")
_JSON_NAMES: Final = {
    "float": "number",
    "int": "integer",
    "str": "string",
    "bool": "boolean",
}
_TYPE_NAME: Final = re.compile(
    r"(?<=[`|] )(float|int|str|bool)\b|(?<=`)(float|int|str|bool)\b"
)
# A deep JSON schema has 20 levels; each level more is stack of every parser behind us.
MAX_NESTING: Final = 200
# A text without an end matches to the end: trying again at each of its quotes would
# take time that grows with their square.
_TEXT_OR_BRACKET: Final = re.compile(
    rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL
)
# Complaints quote what was sent; a role of 30 MiB is not sent back.
MAX_COMPLAINT_CHARS: Final = 200

# In a dict's values msgspec writes `[...]`: it keeps no key.
_ANONYMOUS: Final = re.compile(r"\[\.\.\.\].*$")


def decode_body(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body or raise InvalidRequest with the parameter that is wrong."""
    _refuse_deep_nesting(raw)
    try:
        value = decoder.decode(raw)
        _refuse_duplicate_keys(raw)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), decoder.type) from None
    except RecursionError:
        raise _too_deep() from None
    except _DuplicateKey as error:
        raise InvalidRequest(
            f"The key '{error.key}' appears twice in one object.", param=error.key
        ) from None
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.") from None
    except ValueError as error:
        _refuse_malformed(raw, error)
    return value


def _refuse_deep_nesting(raw: bytes) -> None:
    # Counted, because how deep a parser goes differs from one Python to the next. Only
    # bodies with that many brackets at all are looked through.
    if raw.count(b"[") + raw.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for found in _TEXT_OR_BRACKET.finditer(raw):
        if found[0] in b"[{":
            depth += 1
            if depth > MAX_NESTING:
                raise _too_deep()
        elif found[0] in b"]}":
            depth -= 1


def _too_deep() -> InvalidRequest:
    return InvalidRequest("The body is nested too deeply.")


def _refuse_malformed(raw: bytes, error: ValueError) -> NoReturn:
    if not raw.strip():
        raise InvalidRequest("The body is empty; a JSON object is needed.") from None
    if "digits" in str(error):
        # Python's own words name a Python function to call.
        raise InvalidRequest("A number in the body has too many digits.") from None
    raise InvalidRequest(f"The body is not valid JSON: {error}") from None


def _invalid(text: str, form: Any) -> InvalidRequest:
    found = _AT.match(text)
    complaint, path = (found["complaint"], found["path"]) if found else (text, "")
    path = _ANONYMOUS.sub("", path)
    if len(complaint) > MAX_COMPLAINT_CHARS:
        complaint = complaint[:MAX_COMPLAINT_CHARS] + "..."
    if complaint.startswith("Invalid enum value"):
        complaint += _allowed(form, path)
    # JSON's words for types, where msgspec writes Python's.
    complaint = _TYPE_NAME.sub(lambda found: _JSON_NAMES[found[0]], complaint)
    if missing := _MISSING.match(complaint):
        path = f"{path}.{missing['field']}" if path else missing["field"]
        return InvalidRequest(f"Missing required parameter: '{path}'.", param=path)
    if not path:
        return InvalidRequest(f"Invalid body: {complaint}.")
    return InvalidRequest(f"Invalid '{path}': {complaint}.", param=path)


def _allowed(form: Any, path: str) -> str:
    """What a top-level parameter may be, where it is one of a few words."""
    types = [f.type for f in msgspec.structs.fields(form) if f.encode_name == path]
    words = [word for kind in types for word in _literals(kind)]
    return f": one of {', '.join(words)}" if words else ""


def _literals(kind: Any) -> Iterator[str]:
    for argument in get_args(kind):
        if isinstance(argument, str):
            yield argument
        else:
            yield from _literals(argument)


class _DuplicateKey(Exception):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key[:64]


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1:
        seen = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKey(key)
            seen.add(key)


def _refuse_duplicate_keys(raw: bytes) -> None:
    # Parsers disagree on which of two equal keys counts, so a body with two `model`s
    # could pass one check and mean another thing upstream. msgspec keeps the last and
    # does not tell; the standard library's C scanner does, for about 5 us a request.
    # Decoded first, because `loads` lets surrogates in bytes pass, which are no UTF-8.
    json.loads(raw.decode(), object_pairs_hook=_unique)
