"""What every storage promises, tried on a directory and on S3 alike."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from gateway.storage.port import (
    MAX_CHUNK_BYTES,
    ObjectMissing,
    Storage,
    StorageUnavailable,
    StoredObject,
)
from tests.storage.objects import KIB, MIB, keys, pattern, read, streamed, write


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="nothing"),
        pytest.param(1, id="one byte"),
        pytest.param(256 * KIB, id="one chunk"),
        pytest.param(5 * MIB, id="exactly one part"),
        pytest.param(12 * MIB + 7, id="several parts"),
    ],
)
async def test_what_was_written_is_read_back(storage: Storage, size: int) -> None:
    whole = b"".join(pattern(size))

    stored = await storage.put("files/a", streamed(pattern(size)))

    assert StoredObject(size, hashlib.sha256(whole).hexdigest()) == stored
    assert size == await storage.size("files/a")
    assert whole == await read(storage, "files/a")


async def test_single_bytes_are_written_as_they_come(storage: Storage) -> None:
    whole = b"".join(pattern(200 * KIB))

    await storage.put("a", streamed(bytes([byte]) for byte in whole))

    assert whole == await read(storage, "a")


async def test_chunks_are_bounded_however_large_they_were_written(
    storage: Storage,
) -> None:
    await write(storage, "a", bytes(3 * MIB))

    sizes = [len(chunk) async for chunk in storage.open("a")]

    assert 3 * MIB == sum(sizes)
    assert max(sizes) <= MAX_CHUNK_BYTES


@pytest.mark.parametrize(
    ("start", "end"),
    [
        pytest.param(0, 1, id="the first byte"),
        pytest.param(3, 3, id="none"),
        pytest.param(100, None, id="to the end"),
        pytest.param(2 * MIB - 5, 2 * MIB + 5, id="over a window's edge"),
        pytest.param(3 * MIB, 9 * MIB, id="past the end"),
        pytest.param(9 * MIB, None, id="all of it past the end"),
    ],
)
async def test_a_range_is_read(storage: Storage, start: int, end: int | None) -> None:
    whole = b"".join(pattern(4 * MIB + 3))
    await write(storage, "a", whole)

    assert whole[start:end] == await read(storage, "a", start, end)


async def test_writing_again_replaces_the_object(storage: Storage) -> None:
    await write(storage, "a", b"first, and longer")

    await write(storage, "a", b"second")

    assert b"second" == await read(storage, "a")


async def test_a_reader_never_sees_two_versions(storage: Storage) -> None:
    await write(storage, "a", b"1" * 5 * MIB)
    reader = storage.open("a")
    read_bytes = bytearray(await anext(reader))

    await write(storage, "a", b"2" * 5 * MIB)
    with suppress(StorageUnavailable):
        async for chunk in reader:
            read_bytes += chunk

    assert {ord("1")} == set(read_bytes)


async def test_what_is_missing_is_said_to_be(storage: Storage) -> None:
    await write(storage, "folder/a", b"1")

    for key in ("b", "folder", "folder/b", "folder/a/b"):
        assert await storage.size(key) is None
        with pytest.raises(ObjectMissing, match=f"`{key}`"):
            await read(storage, key)


async def test_deleting_twice_is_deleting_once(storage: Storage) -> None:
    await write(storage, "folder/a", b"1")

    await storage.delete("folder/a")
    await storage.delete("folder/a")

    assert await storage.size("folder/a") is None
    assert set() == await keys(storage)


async def test_a_folder_has_the_keys_below_it_only(storage: Storage) -> None:
    for key in ("w1/a", "w1/deep/er/b", "w10/c", "d"):
        await write(storage, key, b"1")

    assert {"w1/a", "w1/deep/er/b"} == await keys(storage, "w1")
    assert {"w1/a", "w1/deep/er/b"} == await keys(storage, "w1/")
    assert {"w1/a", "w1/deep/er/b", "w10/c", "d"} == await keys(storage)
    assert set() == await keys(storage, "nowhere")


async def test_a_long_list_is_complete(storage: Storage) -> None:
    wanted = {f"many/{number}" for number in range(1100)}
    waiting = sorted(wanted)

    async def write_some() -> None:
        while waiting:
            await write(storage, waiting.pop(), b"")

    await asyncio.gather(*(write_some() for _ in range(16)))

    assert wanted == await keys(storage, "many")


async def test_the_check_leaves_nothing_behind(storage: Storage) -> None:
    await storage.check()
    await storage.check()

    assert set() == await keys(storage)


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "a/../b", ".", "a b", "ä", "@check", "a\\b", "a\n"],
)
async def test_a_malformed_key_is_refused(storage: Storage, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await storage.size(key)
    with pytest.raises(ValueError, match="key"):
        await storage.delete(key)
    with pytest.raises(ValueError, match="key"):
        storage.open(key)
    with pytest.raises(ValueError, match="key"):
        await write(storage, key, b"1")


async def test_a_key_has_a_longest(storage: Storage) -> None:
    longest = "/".join(["k" * 127] * 4)

    await write(storage, longest, b"1")

    assert {longest} == await keys(storage)
    with pytest.raises(ValueError, match="at most 512 bytes"):
        await storage.size(longest + "kk")


async def test_a_range_that_ends_before_it_starts_is_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="range"):
        storage.open("a", 2, 1)


async def test_many_are_written_at_once(storage: Storage) -> None:
    async def round_trip(number: int) -> bytes:
        await write(storage, f"a/{number}", str(number).encode() * 1000)
        return await read(storage, f"a/{number}")

    got = await asyncio.gather(*(round_trip(number) for number in range(50)))

    assert [str(number).encode() * 1000 for number in range(50)] == got


async def test_objects_of_one_folder_come_and_go_at_once(storage: Storage) -> None:
    async def come_and_go(number: int) -> None:
        for _ in range(20):
            await write(storage, f"shared/{number}", b"1")
            await storage.delete(f"shared/{number}")

    await asyncio.gather(*(come_and_go(number) for number in range(8)))

    assert set() == await keys(storage)


async def broken(chunks: int) -> AsyncIterator[bytes]:
    for chunk in pattern(chunks * 64 * KIB):
        yield chunk
    raise ConnectionResetError("the client left")


@pytest.mark.parametrize("chunks", [0, 1, 200])
async def test_a_source_that_fails_leaves_what_was_there(
    storage: Storage, chunks: int
) -> None:
    await write(storage, "a", b"before")

    with pytest.raises(ConnectionResetError):
        await storage.put("a", broken(chunks))

    assert b"before" == await read(storage, "a")
    assert {"a"} == await keys(storage)
