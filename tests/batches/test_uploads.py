"""Uploads on their way in: how many, how large, and what a drain does with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.errors import RequestTooLarge
from gateway.routes.uploading import UPLOADS_TOGETHER, bounded
from tests.batches.conftest import BatchHouse, StartHouse
from tests.batches.test_files import stored
from tests.gateway_under_test import until
from tests.upstream import PATIENCE_S

MIB: Final = 1024 * 1024
# More than one step of a writer to a directory.
SENT_FIRST: Final = b"x" * (MIB // 2)
HEAD: Final = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
END: Final = b"\r\n--b--\r\n"


class SlowUpload:
    """An upload of which a half has been sent."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    async def finish(self) -> None:
        self._writer.write(SENT_FIRST + END)
        await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, Any]]:
        """Its status and what it says."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = [line.partition(": ") for line in head.decode().splitlines()[1:]]
            length = next(int(v) for n, _, v in lines if n == "content-length")
            said = json.loads(await self._reader.readexactly(length))
        return int(head.split(b" ")[1]), said


@asynccontextmanager
async def slow_upload(house: BatchHouse) -> AsyncIterator[SlowUpload]:
    port = house.gateway.address.port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    length = len(HEAD) + 2 * len(SENT_FIRST) + len(END)
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {house.gateway.key()}\r\n"
        "content-type: multipart/form-data; boundary=b\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()
    writer.write(head + HEAD + SENT_FIRST)
    try:
        yield SlowUpload(reader, writer)
    finally:
        writer.close()


def unfinished(tmp_path: Path) -> int:
    """Uploads of which something has been written."""
    folder = tmp_path / "files/@unfinished"
    return len(list(folder.iterdir())) if folder.exists() else 0


async def test_the_rest_of_a_file_that_is_too_large_is_read_away() -> None:
    """It is small, and a client whose bytes were read hears why and may go on."""
    left, kept = [b"ab", b"c", b"d"], []

    async def arriving() -> AsyncIterator[bytes]:
        while left:
            yield left.pop(0)

    async def keep() -> None:
        async for chunk in bounded(arriving(), 2):
            kept.append(chunk)

    with pytest.raises(RequestTooLarge):
        await keep()

    assert ([b"ab"], []) == (kept, left)


async def test_a_workspace_has_so_many_uploads_at_a_time(
    house: BatchHouse, tmp_path: Path
) -> None:
    """Each may hold megabytes, and costs its sender nothing."""
    async with slow_upload(house) as first, _several(house, UPLOADS_TOGETHER) as others:
        await house.gateway.until_present(UPLOADS_TOGETHER + 1)
        await until(
            lambda: unfinished(tmp_path) == UPLOADS_TOGETHER, "all but one to begin"
        )
        for each in (first, *others):
            await each.finish()

        answers = [await each.answer() for each in (first, *others)]

    assert {200} == {status for status, _ in answers}


@asynccontextmanager
async def _several(house: BatchHouse, count: int) -> AsyncIterator[list[SlowUpload]]:
    if count == 0:
        yield []
        return
    async with slow_upload(house) as one, _several(house, count - 1) as others:
        yield [one, *others]


async def test_draining_lets_an_upload_finish(start_house: StartHouse) -> None:
    house = await start_house(drain_timeout_s=PATIENCE_S)
    async with slow_upload(house) as upload:
        await house.gateway.until_present(1)
        draining = asyncio.ensure_future(house.gateway.server.drain())
        await until(lambda: not house.gateway.server.is_accepting, "a drain")
        await upload.finish()

        status, said = await upload.answer()

    assert (200, 2 * len(SENT_FIRST)) == (status, said["bytes"])
    await asyncio.wait_for(draining, PATIENCE_S)


async def test_an_upload_that_outlives_the_drain_is_told_so(
    start_house: StartHouse, tmp_path: Path
) -> None:
    """A retryable end, and nothing is left behind."""
    house = await start_house(drain_timeout_s=0.2)
    async with slow_upload(house) as upload:
        await until(lambda: unfinished(tmp_path) == 1, "an upload to begin")
        draining = asyncio.ensure_future(house.gateway.server.drain())

        status, said = await upload.answer()

    assert (503, "shutting_down") == (status, said["error"]["code"])
    await asyncio.wait_for(draining, PATIENCE_S)
    assert 0 == unfinished(tmp_path)
    assert [] == await stored(house)


@pytest.mark.parametrize("outlives", [False, True])
async def test_a_download_counts_as_in_flight(
    start_house: StartHouse, *, outlives: bool
) -> None:
    """A drain waits for it; at its deadline it is cut off, so that nobody is misled."""
    house = await start_house(drain_timeout_s=0.2 if outlives else PATIENCE_S)
    content = b"x" * (64 * MIB)
    file_id = (await house.upload(content)).json()["id"]
    path, auth = f"/v1/files/{file_id}/content", house.gateway.auth()
    async with house.client.stream("GET", path, headers=auth) as response:
        await house.gateway.until_present(1)
        assert 1 == house.gateway.gateway.readiness()["in_flight"]
        draining = asyncio.ensure_future(house.gateway.server.drain())
        if outlives:
            await asyncio.wait_for(draining, PATIENCE_S)
            assert 0 == len(house.gateway.gateway.attendance)
            return
        await until(lambda: not house.gateway.server.is_accepting, "a drain")
        assert content == await response.aread()
    await asyncio.wait_for(draining, PATIENCE_S)
