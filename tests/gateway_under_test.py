"""
A whole gateway on loopback, and a client that speaks to it as applications do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from gateway.addresses import Address
from gateway.app import Gateway
from gateway.secret import Secret
from gateway.server import GatewayServer, running_gateway
from gateway.settings import Settings
from policies.keyring import digest_of
from policies.memory_ledger import MemoryLedger
from tests.upstream import PATIENCE_S

UPSTREAM_KEY: Final = "sk_live_the_gateways_own_key"
MODEL: Final = "meta-llama/Llama-3.3-70B-Instruct"
USER: Final = [{"role": "user", "content": "Hello"}]

# Unlimited but for what a test adds.
OPEN_PLAN: Final = "plan: open\n"


class GatewayUnderTest:
    """The gateway, its key for each plan, and a client."""

    def __init__(
        self,
        gateway: Gateway,
        server: GatewayServer,
        address: Address,
        keys: dict[str, str],
    ) -> None:
        self.gateway = gateway
        self.server = server
        self.address = address
        self.keys = keys
        self.client = httpx.AsyncClient(base_url=str(address), timeout=PATIENCE_S * 2)

    @property
    def url(self) -> str:
        return str(self.address)

    @property
    def ledger(self) -> MemoryLedger:
        ledger = self.gateway.ledger
        assert isinstance(ledger, MemoryLedger)
        return ledger

    def key(self, plan: str = "open") -> str:
        return self.keys[plan]

    def auth(self, plan: str = "open") -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[plan]}"}

    async def send(self, *pieces: bytes) -> bytes:
        """Write raw bytes; everything that comes back until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.address.port)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        try:
            return await asyncio.wait_for(reader.read(), PATIENCE_S)
        finally:
            writer.close()

    def raw_chat(self, plan: str = "open", **body: Any) -> bytes:
        """The bytes of a chat request."""
        content = json.dumps(chat_body(**body)).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            f"authorization: Bearer {self.keys[plan]}\r\n"
            f"content-length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def held(self, plan: str = "open") -> int:
        """Leases the workspace of that plan holds now."""
        return len(self.ledger.held(workspace_of(plan)))

    async def chat(self, plan: str = "open", **body: Any) -> httpx.Response:
        """A chat completion, whole or with its stream read to the end."""
        return await self.post("/v1/chat/completions", plan, **chat_body(**body))

    async def post(self, path: str, plan: str = "open", **body: Any) -> httpx.Response:
        return await self.client.post(path, json=body, headers=self.auth(plan))

    async def get(self, path: str, plan: str = "open") -> httpx.Response:
        return await self.client.get(path, headers=self.auth(plan))

    async def post_raw(self, body: bytes, plan: str = "open") -> httpx.Response:
        """A chat completion from raw bytes."""
        return await self.client.post(
            "/v1/chat/completions", content=body, headers=self.auth(plan)
        )

    @asynccontextmanager
    async def stream_chat(
        self, plan: str = "open", **body: Any
    ) -> AsyncIterator[OpenStream]:
        """An open stream, read piece by piece."""
        request = chat_body(stream=True, **body)
        async with self.client.stream(
            "POST", "/v1/chat/completions", json=request, headers=self.auth(plan)
        ) as response:
            yield OpenStream(response)

    async def used(self, plan: str = "open") -> dict[str, int]:
        """What each limit of the workspace has counted, by its name."""
        workspace = workspace_of(plan)
        found = self.gateway.files.book.plan_for(plan, workspace)
        assert found is not None
        states = await self.gateway.ledger.inspect(workspace, found)
        return {state.limit.name: state.used for state in states}

    async def until_metric(self, line: str) -> None:
        """Wait until the exposition contains this line."""
        exposition = self.gateway.telemetry.exposition
        await until(lambda: line in exposition("")[0].decode(), line)

    async def until_free(self, plan: str = "open") -> None:
        """Wait until the workspace holds no lease."""
        await until(lambda: not self.held(plan), f"{plan} to hold no lease")

    async def until_present(self, count: int) -> None:
        """Wait until so many authenticated requests are in flight."""
        attendance = self.gateway.attendance
        await until(lambda: len(attendance) == count, f"{count} requests in flight")


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait until something holds; the failure says what was waited for."""
    deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
    while not holds():
        assert asyncio.get_running_loop().time() < deadline_s, f"waited for {what}"
        await asyncio.sleep(0.001)


class OpenStream:
    """A streamed answer that a test reads as far as it likes."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next_event(self) -> Any:
        """The next event's data, parsed; "[DONE]" as text; None at the end."""
        async for line in self._lines:
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                return data if data == "[DONE]" else json.loads(data)
        return None

    async def next_line(self) -> str | None:
        """The next line that is not empty, comments included."""
        async for line in self._lines:
            if line:
                return line
        return None

    async def text_until(self, text: str) -> None:
        """Read until the content so far ends with this text."""
        content = ""
        while not content.endswith(text):
            event = await self.next_event()
            assert isinstance(event, dict), f"the stream ended with {content!r}"
            for choice in event["choices"]:
                content += choice["delta"].get("content") or ""


def chat_body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": USER, **fields}


def workspace_of(plan: str) -> str:
    return f"ws-{plan}"


def events_of(response: httpx.Response) -> list[Any]:
    """Every event of a stream that was read to its end."""
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    data = [line.removeprefix("data: ") for line in lines]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def text_of(events: list[Any]) -> str:
    """The content of a stream's first choice."""
    deltas = [
        choice["delta"]
        for event in events
        if event != "[DONE]" and "choices" in event
        for choice in event["choices"]
        if choice["index"] == 0
    ]
    return "".join(delta.get("content") or "" for delta in deltas)


def write_policy(
    folder: Path, plans: dict[str, str]
) -> tuple[dict[str, str], Path, Path]:
    """Plan files, and a keys file with one key a plan; the keys, and where both lie."""
    plans_dir = folder / "plans"
    plans_dir.mkdir(exist_ok=True)
    for name, text in plans.items():
        (plans_dir / f"{name}.yaml").write_text(text)
    keys = {name: f"llmtune_gw_test_key_of_{name}" for name in plans}
    records = [
        {"sha256": digest_of(key), "workspace": workspace_of(name), "plan": name}
        for name, key in keys.items()
    ]
    keys_file = folder / "keys.yaml"
    keys_file.write_bytes(msgspec.yaml.encode({"keys": records}))
    return keys, plans_dir, keys_file


@asynccontextmanager
async def gateway_under_test(
    folder: Path,
    plans: dict[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[GatewayUnderTest]:
    """A listening gateway; on the way out it must hold nothing."""
    keys, plans_dir, keys_file = write_policy(
        folder, {"open": OPEN_PLAN, **(plans or {})}
    )
    defaults: dict[str, Any] = {
        "upstream_api_key": Secret(UPSTREAM_KEY),
        "plans_dir": plans_dir,
        "keys_file": keys_file,
        "drain_timeout_s": 1.0,
    }
    ledger = settings.pop("ledger", None)
    environment = settings.pop("environment", {})
    port = settings.pop("port", 0)
    gateway = Gateway(
        Settings(**(defaults | settings)), ledger=ledger, environment=environment
    )
    async with running_gateway(gateway, Address(port=port)) as (server, address):
        under_test = GatewayUnderTest(gateway, server, address, keys)
        async with under_test.client:
            yield under_test
    assert gateway.admission.held == 0, "a lease leaked"
    assert len(gateway.attendance) == 0, "a request leaked"
    if isinstance(gateway.ledger, MemoryLedger):
        for plan in keys:
            assert not under_test.held(plan), f"{plan} still holds a lease"
