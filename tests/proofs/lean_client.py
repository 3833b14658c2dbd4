"""
A client that costs little: HTTP/1.1 over sockets of its own, with when and what.

Each call has a deadline; one that passes it counts as hung.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit

import msgspec

# Longer than any answer the upstream makes here.
DEADLINE_S: Final = 60.0
MODEL: Final = "llmtune-mini"

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})

_Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Answer(msgspec.Struct, frozen=True):
    """One answer, or `status` 0 where there was none."""

    status: int
    headers: dict[str, str]
    body: bytes
    asked_s: float
    # From the first byte sent to the last received.
    took_s: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return None if self.status == 200 else str(self.json["error"]["code"])

    @property
    def tokens(self) -> int:
        """What a completion says it used; a stream says it in its usage chunk."""
        if self.status != 200:
            return 0
        if not self.headers["content-type"].startswith("text/event-stream"):
            return int(self.json["usage"]["total_tokens"])
        frames = [line[6:] for line in self.body.split(b"\n") if line[:6] == b"data: "]
        last = json.loads(frames[-2])
        return int(last["usage"]["total_tokens"])


def prompt(workspace: str, **answer: int | None) -> str:
    """What tells the upstream whose request it is, and what to answer."""
    said = "".join(f" {k}={v}" for k, v in answer.items() if v is not None)
    return f"ws={workspace}{said}"


class LeanClient:
    """Keeps its connections, and gives all of them back at the end."""

    def __init__(self) -> None:
        self._idle: defaultdict[str, list[_Streams]] = defaultdict(list)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connections in self._idle.values():
            for _, writer in connections:
                writer.close()

    async def chat(
        self,
        url: str,
        key: str,
        workspace: str,
        *,
        events: int | None = None,
        output: int | None = None,
        size: int | None = None,
        after: int | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Answer:
        """A chat completion whose prompt tells the upstream what it should be."""
        answer = {"events": events, "output": output, "size": size, "after": after}
        content = prompt(workspace, **answer)
        messages = [{"role": "user", "content": content}]
        body = {"model": MODEL, "messages": messages, **fields}
        if fields.get("stream"):
            body["stream_options"] = {"include_usage": True}
        headers = (
            {} if idempotency_key is None else {"idempotency-key": idempotency_key}
        )
        path = "/v1/chat/completions"
        return await self.ask(url, "POST", path, key, body, headers)

    async def get(self, url: str, path: str, key: str = "") -> Answer:
        return await self.ask(url, "GET", path, key, None)

    async def ask(
        self,
        url: str,
        method: str,
        path: str,
        key: str,
        body: Any,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Answer:
        """Ask, whatever comes; no answer within the deadline is status 0."""
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(DEADLINE_S):
                sent = {"authorization": f"Bearer {key}", **headers}
                status, got, content = await self._ask(url, method, path, sent, body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            status, got, content = 0, {}, b""
        return Answer(status, got, content, asked_s, time.monotonic() - asked_s)

    async def _ask(
        self, url: str, method: str, path: str, headers: Mapping[str, str], body: Any
    ) -> tuple[int, dict[str, str], bytes]:
        parts = urlsplit(url)
        # One that the gateway has closed meanwhile cannot carry a request.
        idle = self._idle[url] = [
            kept for kept in self._idle[url] if not _is_dead(kept)
        ]
        if idle:
            reader, writer = idle.pop()
        else:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        is_reusable = False
        try:
            content = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {path} HTTP/1.1\r\nhost: proof\r\n"
            head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            head += f"content-length: {len(content)}"
            writer.write(head.encode() + b"\r\n\r\n" + content)
            answer = await _read(reader)
            is_reusable = answer[1].get("connection") != "close"
            return answer
        finally:
            if is_reusable:
                self._idle[url].append((reader, writer))
            else:
                writer.close()


def _is_dead(connection: _Streams) -> bool:
    return connection[0].at_eof()


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    pairs = [line.partition(": ") for line in lines if line]
    headers = {name.lower(): value for name, _, value in pairs}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b"".join([chunk async for chunk in _chunks(reader)])
    return int(first.split(" ")[1]), headers, body


async def _chunks(reader: asyncio.StreamReader) -> Any:
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield chunk[:-2]
