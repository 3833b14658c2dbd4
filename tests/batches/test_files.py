"""`/v1/files`: uploads, lists, downloads, deletions, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.batches.planning import once
from gateway.files.service import FileService, content_key
from tests.batches.conftest import BatchHouse, StartHouse


async def test_a_file_comes_back_as_it_was_sent(house: BatchHouse) -> None:
    content = bytes(range(256)) * 5000

    uploaded = (await house.upload(content)).json()
    shown = (await house.gateway.get(f"/v1/files/{uploaded['id']}")).json()
    back = await house.gateway.get(f"/v1/files/{uploaded['id']}/content")

    assert shown == uploaded
    assert ("file", "batch", "input.jsonl", "processed") == (
        shown["object"],
        shown["purpose"],
        shown["filename"],
        shown["status"],
    )
    assert len(content) == shown["bytes"]
    assert content == back.content


async def test_the_file_may_come_before_its_purpose(house: BatchHouse) -> None:
    """As curl sends what it is given first."""
    form = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
        b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b"--b--\r\n"
    )
    headers = {
        **house.gateway.auth(),
        "content-type": "multipart/form-data; boundary=b",
    }
    uploaded = await house.client.post("/v1/files", content=form, headers=headers)
    assert (200, 1) == (uploaded.status_code, uploaded.json()["bytes"])


async def test_deleted_is_gone(house: BatchHouse) -> None:
    file_id = (await house.upload(b"x")).json()["id"]
    auth = house.gateway.auth()

    deleted = await house.client.delete(f"/v1/files/{file_id}", headers=auth)

    assert {"id": file_id, "object": "file", "deleted": True} == deleted.json()
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        gone = await house.gateway.get(path)
        assert 404 == gone.status_code
        assert "not_found" == gone.json()["error"]["code"]


async def test_nobody_sees_anothers_file(start_house: StartHouse) -> None:
    house = await start_house({"other": "plan: other\n"})
    file_id = (await house.upload(b"x")).json()["id"]

    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        assert 404 == (await house.gateway.get(path, "other")).status_code
    listed = (await house.gateway.get("/v1/files", "other")).json()
    assert [] == listed["data"]


async def test_lists_come_in_pages(house: BatchHouse) -> None:
    """The newest first, unless the other way round is asked for."""
    made = [(await house.upload(b"x", purpose="batch")).json()["id"] for _ in range(5)]

    async def page(query: str) -> dict[str, Any]:
        found: dict[str, Any] = (await house.gateway.get(f"/v1/files{query}")).json()
        return found

    first = await page("?limit=2")
    assert made[:2:-1] == [each["id"] for each in first["data"]]
    assert first["has_more"]
    second = await page(f"?limit=5&after={first['last_id']}")
    assert made[2::-1] == [each["id"] for each in second["data"]]
    assert not second["has_more"]
    assert made == [each["id"] for each in (await page("?order=asc"))["data"]]


async def test_a_list_of_one_purpose_has_whole_pages(house: BatchHouse) -> None:
    """An SDK takes an empty page for the end."""
    tuning = [(await house.upload(b"x", purpose="fine-tune")).json()["id"]]
    for _ in range(3):
        await house.upload(b"x")
    tuning.append((await house.upload(b"x", purpose="fine-tune")).json()["id"])

    first = (await house.gateway.get("/v1/files?purpose=fine-tune&limit=1")).json()
    after = first["last_id"]
    second = await house.gateway.get(
        f"/v1/files?purpose=fine-tune&limit=1&after={after}"
    )

    assert [tuning[1]] == [each["id"] for each in first["data"]]
    assert first["has_more"]
    assert [tuning[0]] == [each["id"] for each in second.json()["data"]]
    assert not second.json()["has_more"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "purpose"),
        ({"purpose": "world-domination"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "1",
            },
            "expires_after[seconds]",
        ),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "0000036009999",
            },
            "expires_after[seconds]",
        ),
        ({"purpose": ["batch", "fine-tune"]}, "purpose"),
        (
            {"purpose": "batch", "expires_after[seconds]": "3600"},
            "expires_after[anchor]",
        ),
    ],
)
async def test_a_wrong_field_is_named(
    house: BatchHouse, fields: dict[str, Any], param: str
) -> None:
    """And nothing is kept."""
    refused = await house.client.post(
        "/v1/files",
        data=fields,
        files={"file": ("a.jsonl", b"x")},
        headers=house.gateway.auth(),
    )
    assert 400 == refused.status_code
    assert param == refused.json()["error"]["param"]
    assert [] == await stored(house)


async def test_an_upload_that_is_cut_off_leaves_nothing(house: BatchHouse) -> None:
    head = (
        "POST /v1/files HTTP/1.1\r\nhost: x\r\n"
        f"authorization: Bearer {house.gateway.key()}\r\n"
        "content-type: multipart/form-data; boundary=b\r\n"
        "content-length: 1000000\r\n\r\n"
    ).encode()
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    port = house.gateway.address.port
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head + form + b"x" * 500_000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    assert [] == (await house.gateway.get("/v1/files")).json()["data"]


async def test_a_file_that_is_too_large_is_refused(start_house: StartHouse) -> None:
    house = await start_house(file_max_bytes=1024)

    refused = await house.upload(b"x" * 1025)

    assert (413, "request_too_large") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )
    assert [] == await stored(house)
    assert 200 == (await house.upload(b"x" * 1024)).status_code


@pytest.mark.parametrize(
    "body", [b"", b"--b", b"--c\r\n\r\nx\r\n--c--\r\n", b"\xff" * 100]
)
async def test_what_is_no_form_is_a_400(house: BatchHouse, body: bytes) -> None:
    headers = {
        **house.gateway.auth(),
        "content-type": "multipart/form-data; boundary=b",
    }
    refused = await house.client.post("/v1/files", content=body, headers=headers)
    assert 400 == refused.status_code
    assert refused.json()["error"]["message"]


async def test_json_is_no_form(house: BatchHouse) -> None:
    refused = await house.gateway.post("/v1/files", purpose="batch")
    assert 400 == refused.status_code


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=10001",
        "order=up",
        pytest.param("limit=0000000011000000", id="more-behind-zeros"),
        pytest.param(f"limit=1{'0' * 5000}", id="of-thousands-of-digits"),
        pytest.param(f"limit=00000001{'0' * 5000}", id="no-integer-of-pythons"),
    ],
)
async def test_a_wrong_query_is_named(house: BatchHouse, query: str) -> None:
    refused = await house.gateway.get(f"/v1/files?{query}")
    assert 400 == refused.status_code
    assert query.partition("=")[0] == refused.json()["error"]["param"]


async def test_nobody_comes_in_without_a_key(house: BatchHouse) -> None:
    asked = (("GET", "/v1/files"), ("POST", "/v1/files"), ("GET", "/v1/batches"))
    for method, path in asked:
        answer: httpx.Response = await house.client.request(method, path)
        assert 401 == answer.status_code
    assert 404 == (await house.gateway.get("/v1/files/a/b/c")).status_code
    assert 405 == (await house.client.put("/v1/files")).status_code


async def stored(house: BatchHouse) -> list[str]:
    """The keys of all objects there are."""
    jobs = house.gateway.gateway.long_jobs
    assert jobs is not None
    return [key async for key in jobs.storage.list()]


class TestSweeping:
    """The bytes of a file end with its record, whatever happens to whom."""

    async def test_what_was_never_registered_goes(self, house: BatchHouse) -> None:
        """A replica died between the bytes and the record."""
        files = files_of(house)
        key = content_key("ws-open", "file-lost")
        await files.storage.put(key, once(b"x"))

        assert await files.sweep("ws-open file-lost") is None
        assert [] == await stored(house)

    async def test_what_lives_stays(self, house: BatchHouse) -> None:
        file_id = (await house.upload(b"x")).json()["id"]
        assert await files_of(house).sweep(f"ws-open {file_id}") is None
        assert 1 == len(await stored(house))

    async def test_what_will_end_is_looked_at_again_then(
        self, house: BatchHouse
    ) -> None:
        made = await files_of(house).create(
            "ws-open", once(b"x"), filename="a", purpose="batch", expires_after_s=3600
        )
        again_ms = await files_of(house).sweep(f"ws-open {made.id}")
        assert again_ms is not None
        assert 3_590_000 < again_ms <= 3_601_000


def files_of(house: BatchHouse) -> FileService:
    jobs = house.gateway.gateway.long_jobs
    assert jobs is not None
    return jobs.files
