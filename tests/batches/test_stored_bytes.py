"""A workspace's files together: refused beyond the plan, and given back once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import uuid4

import msgspec
import pytest

from gateway.auth import Principal
from gateway.batches.planning import once
from gateway.errors import LimitExceeded
from gateway.files.service import (
    QUEUE,
    FileRecord,
    FileService,
    NewFile,
    new_file_id,
)
from gateway.secret import Secret
from gateway.storage.local import LocalStorage
from policies.jobs.memory_jobs import MemoryJobs
from policies.jobs.port import JobStore, JobsUnavailable, Kept, RecordName
from policies.jobs.redis_jobs import RedisJobs
from policies.plans import BatchLimits, Plan
from policies.store.store import Store, open_store
from tests.batches.conftest import StartHouse
from tests.batches.test_files import stored
from tests.batches.test_uploads import slow_upload
from tests.servers.redis_server import RedisServer
from tests.upstream import PATIENCE_S

T = TypeVar("T")
DAY_MS: Final = 86_400_000
SMALL: Final = "plan: open\nbatch: {stored_file_bytes: 100}\n"


async def test_what_has_no_room_is_refused(start_house: StartHouse) -> None:
    """As OpenAI says it of a budget that is spent, and nothing is kept of it."""
    house = await start_house({"open": SMALL})
    first = (await house.upload(b"x" * 60)).json()["id"]

    refused = await house.upload(b"x" * 41)

    error = refused.json()["error"]
    assert (429, "insufficient_quota", "insufficient_quota") == (
        refused.status_code,
        error["code"],
        error["type"],
    )
    assert "false" == refused.headers["x-should-retry"]
    assert ("stored-file-bytes", 100, 60, 41) == tuple(
        error["details"][name] for name in ("dimension", "limit", "used", "requested")
    )
    assert 1 == len(await stored(house))
    assert 200 == (await house.upload(b"x" * 40)).status_code
    await house.client.delete(f"/v1/files/{first}", headers=house.gateway.auth())
    assert 200 == (await house.upload(b"x" * 60)).status_code


async def test_what_never_has_room_says_so(start_house: StartHouse) -> None:
    house = await start_house({"open": SMALL})

    refused = await house.upload(b"x" * 101)

    assert "request_exceeds_limit" == refused.json()["error"]["code"]


async def test_a_repeated_upload_needs_no_room(start_house: StartHouse) -> None:
    house = await start_house({"open": SMALL})
    headers = house.gateway.auth() | {"idempotency-key": "a"}

    async def upload() -> Any:
        answer = await house.client.post(
            "/v1/files",
            data={"purpose": "batch"},
            files={"file": ("a", b"x" * 100)},
            headers=headers,
        )
        return answer.json()

    assert await upload() == await upload()


async def test_what_says_that_it_is_too_long_is_not_read(
    start_house: StartHouse,
) -> None:
    """Its client need not send the other half."""
    house = await start_house({"open": SMALL})
    async with slow_upload(house) as upload:
        status, said = await upload.answer()

    assert (429, "request_exceeds_limit") == (status, said["error"]["code"])


class ShakyJobs(MemoryJobs):
    """Answers late, and now and then not, before or after it has done it."""

    def __init__(self, seed: int) -> None:
        super().__init__(lambda: self.now_ms)
        self.random = random.Random(seed)
        self.now_ms = 0
        self.fails = 0.0

    async def _shaken(self, doing: Coroutine[Any, Any, T]) -> T:
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
        if self.random.random() < self.fails:
            doing.close()
            raise JobsUnavailable
        answer = await doing
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
        if self.random.random() < self.fails:
            raise JobsUnavailable
        return answer

    async def create(self, name: RecordName, body: bytes, ttl_ms: int) -> bool:
        return await self._shaken(super().create(name, body, ttl_ms))

    async def read(self, name: RecordName) -> Kept | None:
        return await self._shaken(super().read(name))

    async def replace(
        self, name: RecordName, body: bytes, version: int, ttl_ms: int | None = None
    ) -> bool:
        return await self._shaken(super().replace(name, body, version, ttl_ms))

    async def delete(self, name: RecordName) -> bool:
        return await self._shaken(super().delete(name))


class Files:
    """One replica's files of one workspace that may store a hundred bytes."""

    def __init__(
        self, jobs: JobStore, folder: Path, workspace: str = "ws", **clock: Any
    ) -> None:
        self.jobs = jobs
        self.storage = LocalStorage(folder / "files")
        self.service = FileService(jobs, self.storage, **clock)
        plan = Plan(plan="small", batch=BatchLimits(stored_file_bytes=100))
        self.principal = Principal(
            workspace=workspace,
            plan=plan,
            key_id="key",
            models=None,
            api_key=Secret("key"),
            is_own_key=True,
        )

    async def upload(self, size: int, file_id: str | None = None) -> str:
        """As the route does it."""
        file_id, workspace = file_id or new_file_id(), self.principal.workspace
        kept = await self.service.receive(workspace, file_id, once(b"x" * size))
        new = NewFile(filename="a", purpose="batch", expires_after_s=None, stored=kept)
        await self.service.count(self.principal, file_id, new)
        return (await self.service.register(workspace, file_id, new)).id

    async def used(self) -> int:
        """What is counted, once nothing comes or goes."""
        name = RecordName(self.principal.workspace, "stored", "bytes")
        kept = await self.jobs.read(name)
        if kept is None:
            return 0
        count = msgspec.json.decode(kept.body)
        assert ({}, {}) == (count["coming"], count["going"])
        return int(count["bytes"])

    async def all(self) -> Sequence[FileRecord]:
        return await self.service.page(
            self.principal.workspace, after=None, limit=99, newest_first=True
        )

    async def size(self) -> int:
        return sum(each.bytes for each in await self.all())

    async def sweep(self) -> None:
        """What is due of all queues, as a worker does it."""
        for item in await self.jobs.claim(QUEUE, "me", lease_ms=1000, most=100):
            await self.service.sweep(item)
            await self.jobs.finish(QUEUE, item, "me")

    async def objects(self) -> list[str]:
        return [key async for key in self.storage.list()]


async def attempt(step: Coroutine[Any, Any, Any]) -> bool:
    """Whether it was done, as far as anybody can tell."""
    try:
        await step
    except (JobsUnavailable, LimitExceeded):
        return False
    return True


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_dies_where_the_count_is_that_of_the_files(
    tmp_path: Path, seed: int
) -> None:
    """Uploads, deletions and sweeps at once, each ended by a store that fails."""
    jobs = ShakyJobs(seed)
    files = Files(jobs, tmp_path)
    service, fails = files.service, 0.03
    jobs.fails = fails
    ids = [new_file_id() for _ in range(8)]
    await asyncio.gather(
        *(attempt(files.upload(5 + at, each)) for at, each in enumerate(ids))
    )
    jobs.fails = 0.0
    there = [each.id for each in await files.all()]
    jobs.fails = fails
    await asyncio.gather(
        *(attempt(service.delete("ws", each)) for each in there[:5] for _ in range(2)),
        *(attempt(service.sweep(f"ws {each}")) for each in there for _ in range(2)),
        *(attempt(files.upload(9)) for _ in range(4)),
    )
    jobs.fails = 0.0

    jobs.now_ms += 2 * DAY_MS
    await files.sweep()

    assert await files.size() == await files.used() <= 100
    assert len(await files.all()) == len(await files.objects())


async def test_what_batches_leave_is_kept_where_there_is_no_room(
    tmp_path: Path,
) -> None:
    """It is paid for, and counts once; the next upload is what is refused."""
    files = Files(ShakyJobs(0), tmp_path)
    file_id = new_file_id()
    for _ in range(2):
        await files.service.create(
            "ws",
            once(b"x" * 200),
            filename="a",
            purpose="batch_output",
            file_id=file_id,
        )

    assert 200 == await files.used()
    with pytest.raises(LimitExceeded):
        await files.upload(1)
    await files.service.delete("ws", file_id)
    assert 0 == await files.used()


async def test_an_expired_file_is_gone_at_once_and_given_back_when_swept(
    tmp_path: Path,
) -> None:
    jobs = ShakyJobs(1)
    files = Files(jobs, tmp_path, now_s=lambda: jobs.now_ms / 1000)
    made = await files.service.create(
        "ws", once(b"x" * 80), filename="a", purpose="batch", expires_after_s=3600
    )
    jobs.now_ms += 3_600_000

    assert await files.service.read("ws", made.id) is None
    assert [] == await files.all()
    assert 80 == await files.used()
    jobs.now_ms += 2_000
    await files.sweep()
    assert 0 == await files.used()
    assert [] == await files.objects()


async def test_files_of_before_are_counted_with_the_first_that_is(
    tmp_path: Path,
) -> None:
    """After an upgrade, or where the store has lost the count."""
    jobs = ShakyJobs(2)
    files = Files(jobs, tmp_path)
    first = await files.upload(30)
    await jobs.delete(RecordName("ws", "stored", "bytes"))

    await files.upload(40)

    assert 70 == await files.used()
    await files.service.delete("ws", first)
    assert 40 == await files.used()


async def test_of_many_at_once_on_two_replicas_those_that_fit_are_kept(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    workspace = f"ws-{uuid4().hex}"
    async with store(redis_server) as here, store(redis_server) as there:
        one = Files(RedisJobs(here), tmp_path, workspace)
        other = Files(RedisJobs(there), tmp_path, workspace)

        kept = await asyncio.gather(
            *(attempt(each.upload(20)) for each in (one, other) * 10)
        )

        assert 5 == sum(kept)
        assert 100 == await one.used() == await other.size()


@asynccontextmanager
async def store(server: RedisServer) -> AsyncIterator[Store]:
    opened = open_store(
        server.url,
        timeout_s=PATIENCE_S,
        connect_timeout_s=PATIENCE_S,
        client_name="test",
    )
    yield opened
    await opened.aclose()
