"""A batch that ends, and what LLMTune tells, reach whoever is registered for them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from msgspec import structs

from gateway.background.caller import Caller
from gateway.batches.driving import drive
from gateway.batches.keeping import BatchBook, Held
from gateway.batches.record import KIND, BatchRecord, encode_batch
from gateway.batches.tickets import Ticket, TicketOffice
from gateway.secret import Secret
from policies.jobs.port import JobsUnavailable, RecordName, new_record_id
from tests.batches.conftest import SECRET, BatchHouse, StartHouse, line
from tests.batches.test_webhooks_in import PATH, post
from tests.gateway_under_test import until
from tests.webhooks import hooks
from tests.webhooks.hooks import HookReceiver, hooked

HOOK_SECRET: Final = hooks.SECRET.reveal()
EVENT: Final[dict[str, Any]] = {
    "id": "41",
    "event": "deployment.ready",
    "created_at": int(time.time()),
    "data": {"deploymentId": "d_1"},
}


@pytest.fixture
async def receiver() -> AsyncIterator[HookReceiver]:
    async with hooked() as receiver:
        yield receiver


async def house_telling(
    start_house: StartHouse, tmp_path: Path, url: str, workspace: str, **settings: Any
) -> BatchHouse:
    hook = {"workspace": workspace, "url": url, "events": ["*"], "secret": HOOK_SECRET}
    file = tmp_path / "webhooks.yaml"
    file.write_text(json.dumps({"webhooks": [hook]}))
    return await start_house(
        webhooks_file=file, webhooks_allowed=("127.0.0.0/8",), **settings
    )


async def next_told(receiver: HookReceiver) -> dict[str, Any]:
    async with asyncio.timeout(30):
        await receiver.was_told.wait()
    receiver.was_told.clear()
    return receiver.told[-1].verified()


async def test_a_completed_batch_is_told_to_its_workspace(
    start_house: StartHouse, tmp_path: Path, receiver: HookReceiver
) -> None:
    house = await house_telling(start_house, tmp_path, receiver.url, "ws-open")
    batch = await house.start([line("a"), line("b")])

    event = await next_told(receiver)

    ended = await house.ended(batch["id"])
    assert event == {
        "id": f"evt_{batch['id']}_completed",
        "object": "event",
        "type": "batch.completed",
        "created_at": ended["completed_at"],
        "data": {"id": batch["id"]},
    }
    await house.gateway.until_metric(
        'llmtune_gateway_webhook_deliveries_total{outcome="delivered"} 1.0'
    )


async def test_a_failed_batch_is_told_too(
    start_house: StartHouse, tmp_path: Path, receiver: HookReceiver
) -> None:
    house = await house_telling(start_house, tmp_path, receiver.url, "ws-open")
    batch = await house.start([line("twice"), line("twice")])

    event = await next_told(receiver)

    assert (event["type"], event["data"]) == ("batch.failed", {"id": batch["id"]})


async def test_a_cancelled_batch_is_told_once(
    start_house: StartHouse, tmp_path: Path, receiver: HookReceiver
) -> None:
    house = await house_telling(
        start_house, tmp_path, receiver.url, "ws-open", knobs={"batch_ms": 60_000}
    )
    batch = await house.start([line("a")])
    await house.gateway.post(f"/v1/batches/{batch['id']}/cancel")

    event = await next_told(receiver)

    assert event["type"] == "batch.cancelled"
    await house.ended(batch["id"])
    assert len(receiver.told) == 1


async def test_what_llmtune_tells_nobody_in_particular_goes_to_any(
    start_house: StartHouse, tmp_path: Path, receiver: HookReceiver
) -> None:
    """LLMTune posts it twice; it is relayed once, under LLMTune's id."""
    house = await house_telling(start_house, tmp_path, receiver.url, "*")
    for _ in range(2):
        assert (await post(house, EVENT)).status_code == 200

    event = await next_told(receiver)

    assert event == {
        "id": "evt_41",
        "object": "event",
        "type": "deployment.ready",
        "created_at": EVENT["created_at"],
        "data": {"deploymentId": "d_1"},
    }
    await house.gateway.until_metric(
        'llmtune_gateway_webhooks_total{outcome="repeated"} 1.0'
    )
    assert len(receiver.told) == 1


async def test_what_comes_to_a_workspaces_url_is_told_to_that_workspace(
    start_house: StartHouse, tmp_path: Path, receiver: HookReceiver
) -> None:
    """A ticket says whose it is, and what is no result is not taken for one."""
    house = await house_telling(start_house, tmp_path, receiver.url, "ws-open")
    office = TicketOffice("http://x", Secret(SECRET))
    ticket = Ticket("ws-open", "batch_1", 0, 2)

    assert (await post(house, {**EVENT, "id": "another"})).status_code == 200
    query = office.url_of(ticket).partition(PATH)[2]
    assert (await post(house, EVENT, None, query)).status_code == 200

    assert (await next_told(receiver))["id"] == "evt_41"


async def test_a_changed_file_is_in_force_for_the_next_event(
    start_house: StartHouse, tmp_path: Path, receiver: HookReceiver
) -> None:
    """One with a mistake is refused, and the old one stays."""
    house = await house_telling(
        start_house, tmp_path, receiver.url, "*", reload_interval_s=0.02
    )
    files, file = house.gateway.gateway.files, tmp_path / "webhooks.yaml"
    good = file.read_text()
    file.write_text(good.replace("events", "evenst"))
    await house.gateway.until_metric(
        'llmtune_gateway_reload_refused{what="webhooks"} 1.0'
    )
    assert len(files.webhooks) == 1

    file.write_text(good.replace('["*"]', '["usage.*"]'))
    await until(
        lambda: not files.webhooks.targets_for("*", EVENT["event"]), "another file"
    )
    assert (await post(house, EVENT)).status_code == 200
    usage = {**EVENT, "id": "42", "event": "usage.threshold"}
    assert (await post(house, usage)).status_code == 200

    assert (await next_told(receiver))["type"] == "usage.threshold"
    assert len(receiver.told) == 1
    await house.gateway.until_metric(
        'llmtune_gateway_reload_refused{what="webhooks"} 0.0'
    )


class Ending:
    """A batch that nobody drives but a test, and what was told of its end."""

    def __init__(self, house: BatchHouse) -> None:
        long_jobs = house.gateway.gateway.long_jobs
        assert long_jobs is not None
        self.told: list[str] = []
        self.parts = structs.replace(long_jobs.parts, ended=self.tell)
        self.book = self.parts.book
        self.is_away = False
        now_s = int(time.time())
        self.record = BatchRecord(
            id=new_record_id("batch_", now_s * 1000),
            caller=Caller("ws-open", "open"),
            endpoint="/v1/chat/completions",
            input_file_id="file-gone",
            created_at=now_s,
            expires_at=now_s + 86_400,
        )

    async def tell(self, record: BatchRecord) -> None:
        if self.is_away:
            raise JobsUnavailable
        self.told.append(record.status)

    async def begin(self) -> None:
        name = RecordName("ws-open", KIND, self.record.id)
        await self.book.jobs.create(name, encode_batch(self.record), 86_400_000)

    async def look(self, book: BatchBook | None = None) -> int | None:
        parts = structs.replace(self.parts, book=book or self.book)
        return await drive(parts, f"ws-open {self.record.id}")


class DyingBook(BatchBook):
    """Its replica dies before it has saved anything."""

    async def save(self, held: Held) -> None:
        raise asyncio.CancelledError


async def test_an_end_that_was_not_kept_was_told_to_nobody(house: BatchHouse) -> None:
    """The batch is cancelled in the moment in which its driver dies."""
    batch = Ending(house)
    await batch.begin()
    with pytest.raises(asyncio.CancelledError):
        await batch.look(DyingBook(batch.book.jobs))
    held = await batch.book.find("ws-open", batch.record.id)
    assert held is not None
    assert await batch.book.cancel(held, held.record.created_at)

    assert await batch.look() is None

    assert ["cancelled"] == batch.told


async def test_an_end_that_was_kept_is_told_by_whoever_comes_next(
    house: BatchHouse,
) -> None:
    """And by nobody after them."""
    batch = Ending(house)
    await batch.begin()
    batch.is_away = True
    with pytest.raises(JobsUnavailable):
        await batch.look()
    batch.is_away = False

    for _ in range(2):
        assert await batch.look() is None

    assert ["failed"] == batch.told
