"""A gateway whose simulated LLMTune can reach it, and a client that makes batches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import pytest

from gateway.secret import Secret
from gateway.simulator import RunningSimulator, SimulatorSettings, running_simulator
from tests.gateway_under_test import MODEL, GatewayUnderTest, gateway_under_test
from tests.proofs.check import until
from tests.servers.process import ReservedPort

SECRET: Final = "whsec_of_the_tests"
ENDPOINT: Final = "/v1/chat/completions"
# Of a batch, on a machine that does something else as well.
ENDS_WITHIN_S: Final = 30.0

LAST: Final = ("completed", "failed", "expired", "cancelled")

Json: TypeAlias = dict[str, Any]


class BatchHouse:
    """A gateway, the LLMTune behind it, and what callers do with files and batches."""

    def __init__(self, gateway: GatewayUnderTest, llmtune: RunningSimulator) -> None:
        self.gateway = gateway
        self.llmtune = llmtune
        self.client = gateway.client

    async def upload(
        self, content: bytes, plan: str = "open", purpose: str = "batch"
    ) -> httpx.Response:
        return await self.client.post(
            "/v1/files",
            data={"purpose": purpose},
            files={"file": ("input.jsonl", content)},
            headers=self.gateway.auth(plan),
        )

    async def start(self, lines: list[Json], plan: str = "open", **fields: Any) -> Json:
        """A batch of these lines, as it is shown at first."""
        uploaded = await self.upload(jsonl(lines), plan)
        assert uploaded.status_code == 200, uploaded.text
        created = await self.gateway.post(
            "/v1/batches",
            plan,
            **{
                "input_file_id": uploaded.json()["id"],
                "endpoint": ENDPOINT,
                "completion_window": "24h",
                **fields,
            },
        )
        assert created.status_code == 200, created.text
        shown: Json = created.json()
        return shown

    async def show(self, batch_id: str, plan: str = "open") -> Json:
        shown: Json = (await self.gateway.get(f"/v1/batches/{batch_id}", plan)).json()
        return shown

    async def ended(self, batch_id: str, plan: str = "open") -> Json:
        """The batch when it has ended."""
        return await self.becomes(batch_id, LAST, plan)

    async def becomes(
        self, batch_id: str, states: Collection[str], plan: str = "open"
    ) -> Json:
        """The batch when it is in one of these states."""
        batch = await self.show(batch_id, plan)

        async def is_there() -> bool:
            batch.update(await self.show(batch_id, plan))
            return batch["status"] in states

        await until(is_there, f"a batch to be {states}", within_s=ENDS_WITHIN_S)
        return batch

    async def lines_of(self, file_id: str | None, plan: str = "open") -> list[Json]:
        """The lines of a file; none where there is no file."""
        if file_id is None:
            return []
        content = await self.gateway.get(f"/v1/files/{file_id}/content", plan)
        assert content.status_code == 200, content.text
        return [json.loads(line) for line in content.text.splitlines()]

    async def results(self, batch: Json, plan: str = "open") -> list[Json]:
        """All lines that a batch has left, answers and errors."""
        return [
            *await self.lines_of(batch["output_file_id"], plan),
            *await self.lines_of(batch["error_file_id"], plan),
        ]


StartHouse: TypeAlias = Callable[..., Awaitable[BatchHouse]]


@pytest.fixture
async def start_house(tmp_path: Path) -> AsyncIterator[StartHouse]:
    """Starts gateways whose LLMTune has these knobs."""
    async with AsyncExitStack() as running:

        async def start(
            plans: dict[str, str] | None = None,
            knobs: Json | None = None,
            **settings: Any,
        ) -> BatchHouse:
            wanted = {"batch_ms": 20, "webhook_secret": SECRET, **(knobs or {})}
            llmtune = await running.enter_async_context(
                running_simulator(SimulatorSettings(**wanted))
            )
            port = ReservedPort()
            running.callback(port.release)
            defaults = {
                "upstream_url": llmtune.base_url,
                "public_url": f"http://127.0.0.1:{port.number}",
                "webhook_secret": Secret(SECRET),
                "storage_url": (tmp_path / "files").as_uri(),
                "port": port.number,
            }
            gateway = await running.enter_async_context(
                gateway_under_test(tmp_path, plans, **(defaults | settings))
            )
            return BatchHouse(gateway, llmtune)

        yield start


@pytest.fixture
async def house(start_house: StartHouse) -> BatchHouse:
    """One with default settings."""
    return await start_house()


def line(custom_id: str, text: str = "Hello", **fields: Any) -> Json:
    """A request; a plain one can go on LLMTune's batch route."""
    messages = [{"role": "user", "content": text}]
    body = {"model": MODEL, "messages": messages, **fields}
    return {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}


def jsonl(lines: list[Json]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


def ids_of(lines: list[Json]) -> list[str]:
    return [each["custom_id"] for each in lines]
