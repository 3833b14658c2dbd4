"""
A form with one file, `multipart/form-data` of RFC 7578, read as it arrives.

Its small fields are held one at a time, its file never: who asks for the file's next
bytes is who reads the next chunk of the request. Whatever clients are known to send is
read; what could be understood in two ways is refused.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Final, Protocol, TypeAlias, cast
from urllib.parse import unquote

import msgspec
from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

KIB: Final = 1024

# RFC 2046, section 5.1.1.
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_QUOTED: Final = re.compile(r'"(?:\\.|[^"\\])*"')
# RFC 8187; RFC 7578 forbids it in forms, and some libraries send it all the same.
_EXTENDED_NAME: Final = re.compile(r";\s*filename\*\s*=\s*([^;\s]*)", re.IGNORECASE)
_EXTENDED_VALUE: Final = re.compile(
    r"utf-8'[A-Za-z0-9-]*'((?:[A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-Fa-f]{2})+)", re.IGNORECASE
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# RFC 7578, section 4.7: nothing else is sent today, and its bytes would be others.
_PLAIN_ENCODINGS: Final = frozenset({"7bit", "8bit", "binary"})
# Clients send three at most.
_MAX_HEADERS: Final = 8


class MalformedForm(Exception):
    """The body is no form that is taken here; the reason is for the client."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class FormTooLarge(MalformedForm):
    """The whole of it is larger than is taken here."""


class FormBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What a form may have at most."""

    max_bytes: int
    max_parts: int = 32
    max_header_bytes: int = 4 * KIB
    max_field_bytes: int = 64 * KIB


class Field(msgspec.Struct, frozen=True):
    """A small part."""

    name: str
    value: str


class FilePart:
    """
    The file: its bytes, once, as they arrive.

    What is not read before the next part is asked for is read away.
    """

    def __init__(
        self, name: str, filename: str, content_type: str | None, body: _Body
    ) -> None:
        self.name = name
        self.filename = filename
        self.content_type = content_type
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body


Part: TypeAlias = Field | FilePart
_Event: TypeAlias = "MultipartSegment | bytes | None"


class _Parser(Protocol):
    """What we use of the library's parser, which has no types."""

    def parse(self, chunk: bytes) -> Iterator[_Event]: ...

    def close(self) -> None: ...


async def parts(
    content_type: bytes,
    chunks: AsyncIterator[bytes],
    bounds: FormBounds,
    *,
    file_field: str = "file",
) -> AsyncIterator[Part]:
    """
    The parts of a form in their order, of which `file_field` may be a file.

    MalformedForm comes with the part that is wrong, so a form is good only once this
    has ended.
    """
    events = _Events(_boundary_of(content_type), chunks, bounds)
    has_file = False
    async for event in events:
        head = _Head(cast(MultipartSegment, event), bounds, file_field)
        body = _Body(events)
        if head.filename is None:
            yield Field(head.name, await _read_value(head.name, body, bounds))
            continue
        if has_file:
            raise MalformedForm("a form has one file")
        has_file = True
        yield FilePart(head.name, head.filename, head.content_type, body)
        async for _ in body:
            pass


class _Events:
    """What the parser finds: a segment, its bytes, None at its end, and so on."""

    def __init__(
        self, boundary: bytes, chunks: AsyncIterator[bytes], bounds: FormBounds
    ) -> None:
        self._opening = b"--" + boundary
        self._start: bytearray | None = bytearray()
        self._chunks = chunks
        self._max_bytes = bounds.max_bytes
        self._bytes = 0
        self._found: Iterator[_Event] = iter(())
        self._parser: _Parser = PushMultipartParser(
            boundary,
            max_header_size=bounds.max_header_bytes,
            max_header_count=_MAX_HEADERS,
            max_segment_count=bounds.max_parts,
        )

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> _Event:
        try:
            while True:
                for event in self._found:
                    return event
                chunk = await self._next_chunk()
                if chunk is None:
                    self._parser.close()
                    raise StopAsyncIteration
                self._found = self._parser.parse(chunk) if chunk else iter(())
        except MultipartError as error:
            raise MalformedForm(_told(error)) from None

    async def _next_chunk(self) -> bytes | None:
        """The body's next bytes; None at its end."""
        chunk = await anext(self._chunks, None)
        if chunk is None:
            return None
        self._bytes += len(chunk)
        if self._bytes > self._max_bytes:
            raise FormTooLarge(f"a form has at most {self._max_bytes} bytes")
        return self._after_opening(chunk)

    def _after_opening(self, chunk: bytes) -> bytes:
        """
        Hold the first bytes until they are the first boundary.

        The standard allows a text before it, no client sends one, and whether the
        parser takes it depends on where the chunks part.
        """
        if self._start is None:
            return chunk
        self._start += chunk
        if not self._start.startswith(self._opening[: len(self._start)]):
            raise MalformedForm("the body does not begin with the boundary")
        if len(self._start) < len(self._opening):
            return b""
        whole, self._start = bytes(self._start), None
        return whole


class _Body:
    """The bytes of one part; ends with it."""

    def __init__(self, events: _Events) -> None:
        self._events = events
        self._is_done = False

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if self._is_done:
            raise StopAsyncIteration
        event = await anext(self._events)
        if event is None:
            self._is_done = True
            raise StopAsyncIteration
        return cast(bytes, event)


class _Head:
    """What the headers of a part say, as far as it is used."""

    def __init__(
        self, segment: MultipartSegment, bounds: FormBounds, file_field: str
    ) -> None:
        headers: list[tuple[str, str]] = segment.headerlist
        if sum(len(n) + len(v) for n, v in headers) > bounds.max_header_bytes:
            raise MalformedForm("the headers of a part are too long")
        if len({name for name, _ in headers}) != len(headers):
            raise MalformedForm("a part has a header twice")
        by_name = dict(headers)
        encoding = by_name.get("Content-Transfer-Encoding", "binary").strip().lower()
        if encoding not in _PLAIN_ENCODINGS:
            raise MalformedForm("a part has a transfer encoding; send its bytes as is")
        self.content_type: str | None = segment.content_type
        if (self.content_type or "").startswith("multipart/"):
            raise MalformedForm("a part is a form itself")
        self.name = _name_of(segment)
        self.filename = _filename_of(segment, by_name["Content-Disposition"])
        if self.filename is None and self.name == file_field:
            raise MalformedForm(f"`{file_field}` has no filename")
        if self.filename is not None and self.name != file_field:
            raise MalformedForm(f"only `{file_field}` may be a file")


def _name_of(segment: MultipartSegment) -> str:
    name: str = segment.name or ""
    if not name or _CONTROL.search(name):
        raise MalformedForm("a part has no name")
    return name


def _filename_of(segment: MultipartSegment, disposition: str) -> str | None:
    filename: str | None = segment.filename
    extended = _EXTENDED_NAME.search(_QUOTED.sub('""', disposition))
    if extended is not None:
        filename = _decode_extended(extended[1])
    if filename is not None and (not filename or _CONTROL.search(filename)):
        raise MalformedForm("a filename is empty, or has control characters")
    return filename


def _decode_extended(text: str) -> str:
    value = _EXTENDED_VALUE.fullmatch(text)
    try:
        return unquote(value[1], errors="strict") if value else ""
    except UnicodeDecodeError:
        return ""


async def _read_value(name: str, body: _Body, bounds: FormBounds) -> str:
    value = bytearray()
    async for piece in body:
        value += piece
        if len(value) > bounds.max_field_bytes:
            raise MalformedForm(
                f"`{_shown(name)}` has more than {bounds.max_field_bytes} bytes"
            )
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedForm(f"`{_shown(name)}` is not UTF-8") from None


def _shown(name: str) -> str:
    return name if len(name) <= 64 else f"{name[:64]}..."


def _boundary_of(content_type: bytes) -> bytes:
    kind, options = parse_options_header(content_type.decode("latin-1"))
    if kind != "multipart/form-data":
        raise MalformedForm("the content type is not multipart/form-data")
    boundary: str = options.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedForm("the content type has no boundary, or not a valid one")
    return boundary.encode("ascii")


def _told(error: MultipartError) -> str:
    """The library's reason, without what it adds for programmers."""
    reason = str(error.args[0]) if error.args else "not a form"
    if "end of multipart stream" in reason:
        return "the body ends before the form does"
    return reason[0].lower() + reason[1:]
