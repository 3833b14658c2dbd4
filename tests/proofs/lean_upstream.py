"""
An upstream that costs next to nothing: LLMTune's inference route, in its own process.

    python -m tests.proofs.lean_upstream SOCKET_FD

Usage is made up per request. A prompt names its workspace as `ws=NAME`, and may say how
many events its stream has, `events=N`, how large the text of each is, `size=BYTES`, how
long the answer takes to begin, `after=MS`, and how many tokens its output is charged
with, `output=N`; /tally tells what each workspace asked for and was given, and how many
of its requests were here at the same time at most.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import socket
import sys
from collections import defaultdict
from typing import Any, Final, cast

import httptools
import uvloop

EVENTS: Final = 10
EVENT_EVERY_S: Final = 0.05
ANSWER_AFTER_MS: Final = 5
# Each answer's output; the numbers differ, so that a mix-up shows in the sums.
OUTPUTS: Final = (3, 7, 11, 19, 40)
INPUT_TOKENS: Final = 10

_WORKSPACE: Final = re.compile(rb"ws=([A-Za-z0-9._-]+)")
_EVENTS: Final = re.compile(rb"events=([0-9]+)")
_OUTPUT: Final = re.compile(rb"output=([0-9]+)")
_SIZE: Final = re.compile(rb"size=([0-9]+)")
_AFTER: Final = re.compile(rb"after=([0-9]+)")

# Text that hardly compresses, of which events are slices.
_NOISE: Final = base64.b64encode(random.Random(1).randbytes(96 * 1024)).decode()


class Tally:
    """What was asked of us for one workspace."""

    def __init__(self) -> None:
        self.asked = 0
        self.answered = 0
        self.tokens = 0
        # Of all streams, those cut short included.
        self.events = 0
        self.running = 0
        self.most_running = 0


class Upstream:
    """Answers, and counts what it answered."""

    def __init__(self) -> None:
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._asked = 0

    def tally(self) -> bytes:
        shown = {name: vars(tally) for name, tally in self._tallies.items()}
        return _whole(shown)

    async def answer(self, body: bytes, transport: asyncio.Transport) -> None:
        """One completion, whole or streamed, to its end or until the caller leaves."""
        found = _WORKSPACE.search(body)
        tally = self._tallies[found[1].decode() if found else "none"]
        self._asked += 1
        output = _number(_OUTPUT, body, OUTPUTS[self._asked % len(OUTPUTS)])
        tally.asked += 1
        tally.running += 1
        tally.most_running = max(tally.most_running, tally.running)
        try:
            if b'"stream":true' in body.replace(b" ", b""):
                events = _number(_EVENTS, body, EVENTS)
                await asyncio.sleep(_number(_AFTER, body, 0) / 1000)
                size = _number(_SIZE, body, 0)
                await _stream(events, size, output, transport, tally)
            else:
                await asyncio.sleep(_number(_AFTER, body, ANSWER_AFTER_MS) / 1000)
                transport.write(_whole({"text": "word", "usage": _usage(output)}))
            if not transport.is_closing():
                tally.answered += 1
                tally.tokens += INPUT_TOKENS + output
        finally:
            tally.running -= 1


def _number(asked: re.Pattern[bytes], body: bytes, otherwise: int) -> int:
    found = asked.search(body)
    return int(found[1]) if found else otherwise


async def _stream(
    events: int, size: int, output: int, transport: asyncio.Transport, tally: Tally
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    transport.write(head + b"transfer-encoding: chunked\r\n\r\n")
    for number in range(events):
        is_last = number == events - 1
        begin = number * size % (len(_NOISE) // 2)
        text = _NOISE[begin : begin + size] if size else "word "
        event: dict[str, Any] = {"token": text}
        if is_last:
            event = {"done": True, "usage": _usage(output)}
        _event(event, transport)
        tally.events += 1
        if not is_last:
            await asyncio.sleep(EVENT_EVERY_S)
    transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


def _event(event: dict[str, Any], transport: asyncio.Transport) -> None:
    frame = b"data: " + json.dumps(event).encode() + b"\n\n"
    transport.write(b"%x\r\n%s\r\n" % (len(frame), frame))


def _usage(output: int) -> dict[str, int]:
    return {"prompt_tokens": INPUT_TOKENS, "completion_tokens": output}


def _whole(value: Any) -> bytes:
    body = json.dumps(value).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


class Connection(asyncio.Protocol):
    """One keep-alive connection of a gateway."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._parser = httptools.HttpRequestParser(self)
        self._body = bytearray()
        self._path = b""
        self._transport: asyncio.Transport | None = None
        self._running: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._running is not None:
            self._running.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path = url
        self._body.clear()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self._transport is not None
        if self._path == b"/tally":
            self._transport.write(self._upstream.tally())
        else:
            answer = self._upstream.answer(bytes(self._body), self._transport)
            self._running = asyncio.ensure_future(answer)


async def main() -> None:
    upstream = Upstream()
    listener = socket.socket(fileno=int(sys.argv[1]))
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(upstream), sock=listener, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
