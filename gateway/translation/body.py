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

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode

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
_TEXT: Final = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
# An outline of less costs more than what it leaves out; at ten times as much a prompt
# of some pages is decoded, and written, once more than it must be.
_SHORT_BODY_BYTES: Final = 1024
# Keys are no longer, unless they are spelled in numbers, six bytes a letter. At a tenth
# the keys of schemas are emptied, look like one another, and such bodies are looked
# through pair by pair.
_SHORT_TEXT_BYTES: Final = 64
_SHORT_SPELLED_BYTES: Final = 6 * _SHORT_TEXT_BYTES
# Half the time of `in`, which has to look at all of a prompt that has none.
_ESCAPED_QUOTE: Final = re.compile(rb'\\"')
_QUOTE_OR_BACKSLASH_AS_NUMBER: Final = re.compile(rb"\\u00(?:22|5[cC])")
# Complaints quote what was sent; a role of 30 MiB is not sent back.
MAX_COMPLAINT_CHARS: Final = 200

# In a dict's values msgspec writes `[...]`: it keeps no key.
_ANONYMOUS: Final = re.compile(r"\[\.\.\.\].*$")


def decode_body(raw: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body or raise InvalidRequest with the parameter that is wrong."""
    outline = raw if len(raw) <= _SHORT_BODY_BYTES else _outline_of(raw)
    _refuse_deep_nesting(outline)
    try:
        value = decoder.decode(raw)
        if not raw.isascii():
            raw.decode()  # msgspec passes over the bytes of texts it has no use for
        if not _has_unique_keys(outline):
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


def _outline_of(raw: bytes) -> bytes:
    """
    The body with its long texts emptied: what every look at its structure can do with.

    Once no quote is escaped, each of them begins or ends a text. 1 MiB of code in a
    prompt takes 5 ms this way, where a scan that knows of texts takes 36.
    """
    plain = raw
    if _ESCAPED_QUOTE.search(raw):
        # Backslashes first: what is left of them escapes.
        plain = raw.replace(rb"\\", b"~~").replace(rb"\"", b"~~")
    pieces = plain.split(b'"')
    outside = b"".join(pieces[::2])
    if b"~" in outside:
        # No JSON: there a backslash escapes nothing, which only a scan knows.
        return raw
    pieces[1::2] = [text if _is_short(text) else b"" for text in pieces[1::2]]
    return b'"'.join(pieces)


def _is_short(text: bytes) -> bool:
    # Else of two spellings of one key only one would be emptied.
    size = len(text)
    return size <= _SHORT_TEXT_BYTES or (size <= _SHORT_SPELLED_BYTES and b"\\" in text)


def _refuse_deep_nesting(outline: bytes) -> None:
    # Counted, because how deep a parser goes differs from one Python to the next. Only
    # bodies with that many brackets at all are looked through.
    if outline.count(b"[") + outline.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for bracket in _TEXT.sub(b"", outline).translate(None, _NO_BRACKETS):
        if bracket in b"[{":
            depth += 1
            if depth > MAX_NESTING:
                raise _too_deep()
        else:
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


def _has_unique_keys(outline: bytes) -> bool:
    """
    Whether no object of this document has a key twice; False is "perhaps not".

    A text is written with two quotes and one more for each quote in it, unless one is
    written as a number, which is looked for. A decoded object has each key once, so the
    document written anew has the same texts less those that a second key displaced: its
    namesake at least. As many quotes as before mean that none was displaced. 2 us for
    a chat; a look at every pair takes 12.

    In an outline `~~` stands for an escaped quote or backslash. Equal keys stay equal
    as long as neither is written as a number; others may become equal, as emptied ones
    do, and that is only the slower answer.
    """
    if rb"\u00" in outline and _QUOTE_OR_BACKSLASH_AS_NUMBER.search(outline):
        return False
    try:
        anew = _encode(_decode(outline))
    except (ValueError, RecursionError):
        return False  # a number that msgspec cannot hold
    return outline.count(b'"') == anew.count(b'"')


def _refuse_duplicate_keys(raw: bytes) -> None:
    # Parsers disagree on which of two equal keys counts, so a body with two `model`s
    # could pass one check and mean another thing upstream. msgspec keeps the last and
    # does not tell; the standard library's scanner tells which it was.
    # Decoded first, because `loads` lets surrogates in bytes pass, which are no UTF-8.
    json.loads(raw.decode(), object_pairs_hook=_unique)
