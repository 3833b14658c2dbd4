"""HTTP/1.1 as bytes: what is sent is exactly what a case says, and answers are read."""

from __future__ import annotations

import asyncio
import json
from typing import Final

import msgspec

# A gateway that does not answer for so long hangs.
PATIENCE_S: Final = 15.0


class NoAnswer(Exception):
    """The connection ended where an answer should have been."""


class Answer(msgspec.Struct):
    """One HTTP answer."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    is_last: bool

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"")


class Peer:
    """One client connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, host: str, port: int) -> Peer:
        return cls(*await asyncio.open_connection(host, port, limit=2**22))

    async def exchange(self, request: bytes) -> Answer:
        """Send one request and read its answer."""
        self.writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            return await self.answer(is_head=request.startswith(b"HEAD "))

    async def answer(self, *, is_head: bool = False) -> Answer:
        status, headers = await self._head()
        while 100 <= status < 200:
            status, headers = await self._head()
        body = b""
        if not is_head and status not in {204, 304}:
            body = await self._body(headers)
        is_last = headers.get(b"connection", b"").lower() == b"close"
        return Answer(status, headers, body, is_last)

    async def _head(self) -> tuple[int, dict[bytes, bytes]]:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise NoAnswer(getattr(error, "partial", b"")) from None
        status_line, *lines = head[:-4].split(b"\r\n")
        version, status, _ = status_line.split(b" ", 2)
        assert b"HTTP/1.1" == version, head
        pairs = (line.split(b": ", 1) for line in lines)
        return int(status), {name.lower(): value for name, value in pairs}

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        if b"content-length" in headers:
            return await self.reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"transfer-encoding") != b"chunked":
            return await self.reader.read()
        body = bytearray()
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert b"\r\n" == await self.reader.readexactly(2)
        assert b"\r\n" == await self.reader.readexactly(2)
        return bytes(body)

    async def aclose(self) -> None:
        self.writer.transport.abort()


def request(
    method: bytes, path: bytes, headers: list[tuple[bytes, bytes]], body: bytes = b""
) -> bytes:
    """A well-framed request, whatever is in its parts."""
    lines = [b"%b %b HTTP/1.1" % (method, path), b"host: gateway"]
    lines += [b"%b: %b" % header for header in headers]
    if body or method in {b"POST", b"PUT", b"PATCH"}:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def complaint(answer: Answer, *, is_head: bool = False) -> str | None:
    """What is wrong with an answer, if anything."""
    if answer.status >= 500:
        return f"status {answer.status}: {answer.body[:300]!r}"
    if b"x-request-id" not in answer.headers:
        return f"status {answer.status} without x-request-id"
    if 200 <= answer.status < 300:
        is_stream = answer.content_type.startswith(b"text/event-stream")
        if is_stream and not answer.body.endswith(b"data: [DONE]\n\n"):
            return f"a stream without its end: {answer.body[-300:]!r}"
        return None
    if answer.content_type != b"application/json":
        return f"status {answer.status} as {answer.content_type!r}"
    return None if is_head else _envelope_complaint(answer)


def _envelope_complaint(answer: Answer) -> str | None:
    try:
        error = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status} without an envelope: {answer.body[:300]!r}"
    if not {"message", "type", "param", "code"} <= error.keys():
        return f"status {answer.status} with half an envelope: {error}"
    if not (error["message"] and error["type"] and error["code"]):
        return f"status {answer.status} with an empty envelope: {error}"
    if len(answer.body) > 8192:
        return f"status {answer.status} with an envelope of {len(answer.body)} bytes"
    return None
