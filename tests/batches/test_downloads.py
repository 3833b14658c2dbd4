"""A file's bytes on their way out: what is announced is sent, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from gateway.storage.local import LocalStorage
from tests.batches.conftest import BatchHouse, StartHouse
from tests.batches.test_files import files_of
from tests.upstream import PATIENCE_S

MIB: Final = 1024 * 1024


class UnreadableStorage(LocalStorage):
    """Knows what there is, and gives none of it."""

    def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        raise AssertionError("nobody wanted the bytes")


def only_object(tmp_path: Path) -> Path:
    (found,) = (
        each for each in (tmp_path / "files/files").rglob("*") if each.is_file()
    )
    return found


async def test_a_head_request_reads_nothing(house: BatchHouse, tmp_path: Path) -> None:
    """Half a gigabyte is not read from a bucket to be thrown away."""
    path = f"/v1/files/{(await house.upload(b'x' * MIB)).json()['id']}/content"
    files_of(house).storage = UnreadableStorage(tmp_path / "files")

    told = await house.client.head(path, headers=house.gateway.auth())

    assert (200, str(MIB)) == (told.status_code, told.headers["content-length"])
    assert told.content == b""


async def test_a_head_request_tells_of_bytes_that_are_gone(
    house: BatchHouse, tmp_path: Path
) -> None:
    path = f"/v1/files/{(await house.upload(b'x')).json()['id']}/content"
    only_object(tmp_path).unlink()

    told = await house.client.head(path, headers=house.gateway.auth())

    assert told.status_code == 404


@pytest.mark.parametrize("size", [10, MIB - 1])
async def test_fewer_bytes_than_announced_end_the_connection(
    house: BatchHouse, tmp_path: Path, size: int
) -> None:
    """The next answer on it would be taken for the rest of this one."""
    path = f"/v1/files/{(await house.upload(b'x' * MIB)).json()['id']}/content"
    with only_object(tmp_path).open("r+b") as file:
        file.truncate(size)

    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await asyncio.wait_for(house.gateway.get(path), PATIENCE_S)

    await house.gateway.until_metric(
        'requests_total{outcome="unavailable",route="/v1/files/{id}/content"} 1.0'
    )


async def test_more_bytes_than_announced_are_not_sent(
    house: BatchHouse, tmp_path: Path
) -> None:
    path = f"/v1/files/{(await house.upload(b'x')).json()['id']}/content"
    with only_object(tmp_path).open("ab") as file:
        file.write(b"HTTP/1.1 200 OK")

    refused = await house.gateway.get(path)

    assert (503, "store_unavailable") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )


async def test_a_download_says_where_the_limits_stand(start_house: StartHouse) -> None:
    plan = "plan: open\nrates: [{of: requests, limit: 60, per: minute}]\n"
    house = await start_house({"open": plan})
    file_id = (await house.upload(b"x")).json()["id"]

    back = await house.gateway.get(f"/v1/files/{file_id}/content")

    assert back.headers["x-ratelimit-limit-requests"] == "60"
