"""A simulator with a client, and a receiver for what it posts: all over loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from gateway.simulator import RunningSimulator, SimulatorSettings, running_simulator

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
INFERENCE = f"/v1/models/{MODEL}/inference"
CHAT = "/v1/chat/completions"
KEY = {"authorization": "Bearer sk_live_test"}


@asynccontextmanager
async def simulated(
    **knobs: Any,
) -> AsyncIterator[tuple[RunningSimulator, httpx.AsyncClient]]:
    async with (
        running_simulator(SimulatorSettings(**knobs)) as simulator,
        httpx.AsyncClient(
            base_url=simulator.url, headers=KEY, timeout=5, trust_env=False
        ) as client,
    ):
        yield simulator, client


def chat(**fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "Hello there"}
    return {"model": MODEL, "messages": [message], **fields}


def events_of(stream: str) -> list[str]:
    """The data of each event; every event must be one line and a blank one."""
    assert stream.endswith("\n\n")
    events = stream.removesuffix("\n\n").split("\n\n")
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def objects_of(stream: str) -> list[Any]:
    events = events_of(stream)
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


def content_of(chunks: Sequence[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(
        choice["delta"].get("content") or ""
        for choice in choices
        if choice["index"] == index
    )


class Delivery(msgspec.Struct):
    headers: dict[str, str]
    body: bytes
    path: str

    @property
    def payload(self) -> Any:
        return json.loads(self.body)


class WebhookReceiver:
    """A real HTTP server: first its scripted statuses, then it takes every delivery."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self._statuses = list(statuses)
        self._taken: asyncio.Queue[Delivery] = asyncio.Queue()
        self.url = ""

    async def next(self) -> Delivery:
        async with asyncio.timeout(5):
            return await self._taken.get()

    def is_empty(self) -> bool:
        return self._taken.empty()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        request, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self._taken.put_nowait(Delivery(headers, body, request.split()[1]))
        status = self._statuses.pop(0) if self._statuses else 200
        location = "location: /elsewhere\r\n" if status == 302 else ""
        answer = f"HTTP/1.1 {status} X\r\n{location}content-length: 0\r\n"
        writer.write(f"{answer}connection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def webhook_receiver(*statuses: int) -> AsyncIterator[WebhookReceiver]:
    receiver = WebhookReceiver(statuses)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    receiver.url = f"http://127.0.0.1:{port}/hook"
    async with server:
        yield receiver
