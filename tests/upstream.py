"""
ScriptedUpstream: a real HTTP server that does what a test tells it to, byte by byte.

It is scripted by object, not by header: headers pass through the thing under test.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, TypeAlias

import msgspec

# Long enough for a loaded machine, short enough that a hang is a failure, not a pause.
PATIENCE_S: Final = 5.0

# Wait until the client leaves; cut the connection without an end; close it politely.
Ending: TypeAlias = Literal["hang", "cut", "close"]
Step: TypeAlias = bytes | Ending | asyncio.Event
Script: TypeAlias = tuple[Step, ...]


class WatchedReader(asyncio.StreamReader):
    """A reader that tells when its client has left, without reading."""

    def __init__(self) -> None:
        super().__init__(limit=2**20, loop=asyncio.get_running_loop())
        self.ended = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.ended.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.ended.set()


class Received(msgspec.Struct):
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    # Of its headers, as often as each came.
    names: list[str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedUpstream:
    """Answers each request with the next script, or with a friendly default."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[Received] = []
        self.open_connections = 0
        self.accepted_connections = 0
        self._scripts: deque[Script] = deque()
        self._changed = asyncio.Condition()
        self.disconnects = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def last(self) -> Received:
        return self.requests[-1]

    def will(self, *steps: Step) -> None:
        """Answer the next request with these raw steps."""
        self._scripts.append(steps)

    def will_answer(
        self, answer: Any, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        """Answer the next request with this JSON."""
        self.will(whole(json.dumps(answer).encode(), status, headers or {}))

    def will_stream(self, *events: Any, then: Ending | None = None) -> None:
        """Stream these events; without `then`, end with [DONE] as LLMTune does."""
        end: Script = (then,) if then else (frame("[DONE]"), LAST_CHUNK)
        self.will(STREAM_HEAD, *(frame(event) for event in events), *end)

    def forget_scripts(self) -> None:
        """Drop what no request has asked for yet."""
        self._scripts.clear()

    async def saw(self, count: int = 1) -> None:
        """Wait until so many requests have arrived."""
        await self._until(lambda: len(self.requests) >= count, f"{count} requests")

    async def saw_disconnect(self, count: int = 1) -> None:
        """Wait until so many clients left before their answer's end."""
        await self._until(lambda: self.disconnects >= count, f"{count} disconnects")

    async def _until(self, holds: Callable[[], bool], what: str) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(holds), PATIENCE_S)
            except TimeoutError:
                raise AssertionError(f"the upstream never saw {what}") from None

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def serve(self, reader: WatchedReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        self.accepted_connections += 1
        try:
            while (received := await _read_request(reader)) is not None:
                self.requests.append(received)
                script = self._scripts.popleft() if self._scripts else DEFAULT
                await self._notify()
                if not await self._play(script, reader, writer):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            self.disconnects += 1
            await self._notify()
        finally:
            self.open_connections -= 1
            writer.close()

    async def _play(
        self,
        script: Script,
        reader: WatchedReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Play one answer; True if the connection may carry another."""
        for step in script:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif isinstance(step, asyncio.Event):
                await asyncio.wait_for(step.wait(), PATIENCE_S)
            elif step == "cut":
                writer.transport.abort()
                return False
            elif step == "close":
                return False
            else:
                await reader.ended.wait()
            if reader.ended.is_set():
                raise ConnectionResetError
        return True


async def _read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    request_line, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = request_line.split(" ")
    pairs = [line.split(":", 1) for line in lines if line]
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    names = [name.strip().lower() for name, _ in pairs]
    return Received(method, path, headers, body, names)


def whole(
    body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> bytes:
    """A whole HTTP answer, as JSON unless its headers say otherwise."""
    sent = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"HTTP/1.1 {status} Scripted\r\n{lines}\r\n".encode() + body


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(event: Any) -> bytes:
    """One server-sent event in an HTTP chunk of its own; JSON unless it is text."""
    data = event if isinstance(event, str) else json.dumps(event)
    return chunk(f"data: {data}\n\n".encode())


STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK: Final = b"0\r\n\r\n"
DEFAULT: Final[Script] = (
    whole(json.dumps({"text": "Hello there.", "tokens": 12, "model": "m"}).encode()),
)


@asynccontextmanager
async def scripted_upstream() -> AsyncIterator[ScriptedUpstream]:
    """A listening upstream, gone with all its connections at the end."""
    upstream = ScriptedUpstream()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert isinstance(reader, WatchedReader)
        task = asyncio.ensure_future(upstream.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def connect() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(WatchedReader(), accept)

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
