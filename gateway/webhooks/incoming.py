"""
What LLMTune posts to us: whether it wrote it, when, and what it says. No I/O.

Three generations of its documentation differ in names and in where the signature is.
Whatever the generation, what is read is what was signed, byte for byte.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from gateway.envelope import Header
from gateway.secret import Secret

Reason: TypeAlias = Literal[
    "too_large", "no_secret", "unsigned", "forged", "malformed", "too_old", "too_new"
]

# Both are accepted in either form, hexadecimal digits with or without `sha256=`.
SIGNATURE_HEADERS: Final = frozenset({b"x-webhook-signature", b"x-llmtune-signature"})

_TEXT: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SIGNATURE_FIELD: Final = re.compile(
    rb'(,\s*)?"signature"\s*:\s*"(sha256=[0-9A-Fa-f]{64})"(\s*,)?'
)
# Fits every store's key and header; all ids that were ever documented are of this form.
_ID_FORM: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
# Of types and workspaces, which go into keys and logs as they are.
_NAME_FORM: Final = re.compile(r"[!-~]{1,128}")
# As seconds it would be the year 5138, as milliseconds it is 1973.
_LEAST_MILLISECONDS: Final = 100_000_000_000
# The last that has a date: what is later cannot be shown, or is no number at all.
_LATEST_S: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()

_Time: TypeAlias = float | str | None


class IncomingRefused(Exception):
    """A body that is not taken. The words are ours and quote nothing of it."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How large, how deep and how far from now an event may be."""

    # A batch of a hundred results of 2,000 tokens each is just below this.
    max_bytes: int = 1024 * 1024
    # Documented events nest 4 deep.
    max_depth: int = 32
    # LLMTune's retries back off; what is older was recorded by somebody and sent again.
    max_past_s: float = 5 * 86_400.0
    # Clocks differ by seconds; Standard Webhooks has the same five minutes.
    max_future_s: float = 300.0


DEFAULT_BOUNDS: Final = Bounds()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, in one form for all generations."""

    # LLMTune's own, or one made of the content: the same for every delivery.
    id: str
    type: str
    workspace: str | None
    data: dict[str, Any]
    # None where the body does not say.
    occurred_at_s: float | None
    sent_at_s: float | None
    # What was signed: the body, without the signature if that was inside.
    raw: bytes


class _Wire(msgspec.Struct):
    id: str | int | None = None
    type: str | None = None
    event: str | None = None
    workspace_id: str | int | None = None
    workspace_camel: str | int | None = msgspec.field(name="workspaceId", default=None)
    data: dict[str, Any] | None = None
    created_at: _Time = None
    timestamp: _Time = None
    delivered_at: _Time = msgspec.field(name="deliveredAt", default=None)
    signature: Any = None


_DECODER: Final = msgspec.json.Decoder(_Wire)


def verify(
    headers: Iterable[Header],
    raw_body: bytes,
    secrets: Sequence[Secret],
    now_s: float,
    bounds: Bounds = DEFAULT_BOUNDS,
) -> Event:
    """
    The event in a body that LLMTune signed with one of the secrets, and signed lately.

    Raises IncomingRefused. Where a signature header is there, it has to match; where
    there are several, all have to. Without one, the field `signature` of the body is
    looked at. Over what it was made is not documented, so two ways are tried, each on
    the raw bytes: the field's value emptied (`"signature":""`), and the field removed
    with the comma before it, or after it where it comes first.

    An event that does not say when it was sent passes the clock: one documented batch
    callback does not. Its id is made of its content, so that a repetition is known.
    """
    if len(raw_body) > bounds.max_bytes:
        raise IncomingRefused("too_large", f"more than {bounds.max_bytes} bytes")
    keys = [secret.reveal().encode() for secret in secrets]
    if not keys or not all(keys):
        # An empty key signs for everybody.
        raise IncomingRefused("no_secret", "there is no secret to verify with")
    signed = _signed_bytes(headers, raw_body, keys)
    event = parse(signed, bounds)
    check_clock(event.sent_at_s, now_s, bounds)
    return event


def parse(raw_body: bytes, bounds: Bounds = DEFAULT_BOUNDS) -> Event:
    """
    The event in a body, whoever wrote it; IncomingRefused if there is none.

    Types nobody has heard of are events like all others.
    """
    wire = _decode(raw_body, bounds)
    kind = wire.type or wire.event or ""
    if not _NAME_FORM.fullmatch(kind):
        raise IncomingRefused("malformed", "there is no event type of a known form")
    times = wire.created_at, wire.timestamp, wire.delivered_at
    created, named, delivered = map(_to_seconds, times)
    return Event(
        id=_id_of(wire, kind),
        type=kind,
        workspace=_workspace_of(wire),
        data=wire.data or {},
        occurred_at_s=_first(created, named, delivered),
        sent_at_s=_first(delivered, named, created),
        raw=raw_body,
    )


def _signed_bytes(
    headers: Iterable[Header], raw_body: bytes, keys: Sequence[bytes]
) -> bytes:
    given = [v for name, v in headers if name.lower() in SIGNATURE_HEADERS]
    if given:
        # Every one is compared, also after one that does not match.
        matches = [_is_signature(value, raw_body, keys) for value in given]
        if not all(matches):
            raise IncomingRefused("forged", "the signature does not match the body")
        return raw_body
    fields = list(_SIGNATURE_FIELD.finditer(raw_body))
    if len(fields) != 1:
        # Of several nobody knows which was meant.
        raise IncomingRefused("unsigned", "there is no signature")
    value = fields[0][2]
    signed: bytes | None = None
    for candidate in _without_signature(raw_body, fields[0]):
        if _is_signature(value, candidate, keys):
            signed = candidate
    if signed is None:
        raise IncomingRefused("forged", "the signature does not match the body")
    return signed


def _without_signature(raw_body: bytes, field: re.Match[bytes]) -> Iterator[bytes]:
    yield raw_body[: field.start(2)] + raw_body[field.end(2) :]
    # One comma goes with the field; between two neighbours the other stays.
    end = field.start(3) if field[1] and field[3] else field.end()
    yield raw_body[: field.start()] + raw_body[end:]


def _is_signature(value: bytes, message: bytes, keys: Sequence[bytes]) -> bool:
    given = value.strip().lower().removeprefix(b"sha256=")
    is_known = False
    for key in keys:
        wanted = hmac.new(key, message, hashlib.sha256).hexdigest().encode("ascii")
        # All keys are tried, so that the time taken does not tell which it was.
        is_known |= hmac.compare_digest(given, wanted)
    return is_known


def check_clock(sent_at_s: float | None, now_s: float, bounds: Bounds) -> None:
    """IncomingRefused for what was sent too long ago, or will be."""
    if sent_at_s is None:
        return
    if sent_at_s < now_s - bounds.max_past_s:
        raise IncomingRefused("too_old", "the event was sent too long ago")
    if sent_at_s > now_s + bounds.max_future_s:
        raise IncomingRefused("too_new", "the event was sent in the future")


def _decode(raw_body: bytes, bounds: Bounds) -> _Wire:
    if len(raw_body) > bounds.max_bytes:
        raise IncomingRefused("too_large", f"more than {bounds.max_bytes} bytes")
    # First, because the parser recurses.
    if _is_deeper(raw_body, bounds.max_depth):
        message = f"the body nests more than {bounds.max_depth} deep"
        raise IncomingRefused("malformed", message)
    try:
        return _DECODER.decode(raw_body)
    except (msgspec.DecodeError, ValueError):
        # Without the parser's words, which may quote the body.
        raise IncomingRefused("malformed", "the body is no event in JSON") from None


def _is_deeper(raw_body: bytes, max_depth: int) -> bool:
    if raw_body.count(b"[") + raw_body.count(b"{") <= max_depth:
        return False
    depth = 0
    for bracket in _TEXT.sub(b"", raw_body).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > max_depth:
            return True
    return False


def _id_of(wire: _Wire, kind: str) -> str:
    """
    An id that a later delivery of the same event has too.

    The times of generations 1 and 2 may be those of the delivery, so they are left out:
    two events that differ in nothing else are one.
    """
    own = "" if wire.id is None else str(wire.id)
    if _ID_FORM.fullmatch(own):
        return own
    if own:
        return "evt_" + hashlib.sha256(own.encode()).hexdigest()
    content = [kind, _workspace_of(wire), wire.created_at, wire.data]
    canonical = msgspec.json.encode(content, order="sorted")
    return "evt_" + hashlib.sha256(canonical).hexdigest()


def _workspace_of(wire: _Wire) -> str | None:
    named = wire.workspace_camel if wire.workspace_id is None else wire.workspace_id
    if named is None or named == "":
        return None
    if not _NAME_FORM.fullmatch(str(named)):
        raise IncomingRefused("malformed", "the workspace is of no known form")
    return str(named)


def _to_seconds(time: _Time) -> float | None:
    """A Unix time, in seconds or milliseconds, or an ISO 8601 one; UTC if not said."""
    if time is None:
        return None
    try:
        if isinstance(time, str) and not time.isdecimal():
            moment = datetime.fromisoformat(time)
            zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = zoned.timestamp()
        else:
            said = float(time)
            seconds = said / 1000 if said >= _LEAST_MILLISECONDS else said
    except (ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds <= _LATEST_S:
        raise IncomingRefused("malformed", "a time of the event is none")
    return seconds


def _first(*times: float | None) -> float | None:
    return next((time for time in times if time is not None), None)
