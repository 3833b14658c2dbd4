"""An upload with an `Idempotency-Key`: one file, however often it is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.batches.conftest import BatchHouse
from tests.batches.test_files import files_of, stored

KEYED = {"idempotency-key": "nightly-4711"}


async def upload(
    house: BatchHouse,
    content: bytes = b"x",
    name: str = "a.jsonl",
    headers: dict[str, str] = KEYED,
    **fields: str,
) -> httpx.Response:
    return await house.client.post(
        "/v1/files",
        data={"purpose": "batch"} | fields,
        files={"file": (name, content)},
        headers=house.gateway.auth() | headers,
    )


async def test_a_repeated_upload_is_the_first_file(house: BatchHouse) -> None:
    """And nothing is kept twice."""
    first = await upload(house)
    again = await upload(house)

    assert (200, first.json()) == (again.status_code, again.json())
    assert 1 == len(await stored(house))
    assert 1 == len((await house.gateway.get("/v1/files")).json()["data"])


async def test_of_many_at_once_one_file_comes(house: BatchHouse) -> None:
    answers = await asyncio.gather(*(upload(house) for _ in range(6)))

    assert 1 == len({each.json()["id"] for each in answers})
    assert 1 == len(await stored(house))


@pytest.mark.parametrize(
    "other",
    [
        {"content": b"y"},
        {"name": "b.jsonl"},
        {"purpose": "fine-tune"},
        {
            "expires_after[anchor]": "created_at",
            "expires_after[seconds]": "3600",
        },
    ],
    ids=["content", "name", "purpose", "expiry"],
)
async def test_another_upload_under_the_key_is_refused(
    house: BatchHouse, other: dict[str, Any]
) -> None:
    first = await upload(house)

    refused = await upload(house, **other)

    assert (422, "idempotency_key_reused") == (
        refused.status_code,
        refused.json()["error"]["code"],
    )
    assert 1 == len(await stored(house))
    assert (
        200 == (await house.gateway.get(f"/v1/files/{first.json()['id']}")).status_code
    )


async def test_what_died_before_it_was_a_file_becomes_one(house: BatchHouse) -> None:
    """Under the id that its upload had; so does what was deleted since."""
    first = (await upload(house, b"content")).json()
    await files_of(house).delete("ws-open", first["id"])

    again = (await upload(house, b"content")).json()

    back = await house.gateway.get(f"/v1/files/{first['id']}/content")
    assert (first["id"], b"content") == (again["id"], back.content)
    assert 1 == len(await stored(house))


async def test_a_key_that_is_none_is_refused(house: BatchHouse) -> None:
    refused = await upload(house, headers={"idempotency-key": ""})

    assert (400, "Idempotency-Key") == (
        refused.status_code,
        refused.json()["error"]["param"],
    )
    assert [] == await stored(house)
