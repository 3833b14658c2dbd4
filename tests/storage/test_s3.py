"""The storage in S3: what it says when it cannot, and for how long it tries."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from gateway.storage.port import Storage, StorageUnavailable
from gateway.storage.s3 import S3Storage
from gateway.storage.s3_location import S3Location, parse_s3_location
from tests.servers.object_storage import BUCKET, REGION, SECRET_KEY, ObjectStorage
from tests.servers.process import ReservedPort
from tests.storage.objects import MIB, keys, pattern, read, streamed, write

USES: list[Callable[[Storage], Awaitable[object]]] = [
    lambda storage: write(storage, "a", b"1"),
    lambda storage: storage.put("a", streamed(pattern(12 * MIB))),
    lambda storage: read(storage, "a"),
    lambda storage: storage.size("a"),
    lambda storage: storage.delete("a"),
    keys,
    lambda storage: storage.check(),
]
NAMES = ["write", "write in parts", "read", "size", "delete", "list", "check"]

# Long enough for a loaded machine to answer within, short enough to wait for.
TIMEOUT_S = 1.0


def location(server: ObjectStorage, prefix: str = "s3") -> S3Location:
    return parse_s3_location(urlsplit(server.url(prefix)))


async def refusal(use: Callable[[Storage], Awaitable[object]], at: S3Location) -> str:
    storage = S3Storage(at, request_timeout_s=TIMEOUT_S)
    with pytest.raises(StorageUnavailable) as refused:
        await use(storage)
    await storage.aclose()
    # A log shows causes, too.
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("use", USES, ids=NAMES)
async def test_a_wrong_secret_is_unavailable(
    s3: ObjectStorage,
    monkeypatch: pytest.MonkeyPatch,
    use: Callable[[Storage], Awaitable[object]],
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")

    told = await refusal(use, location(s3))

    # The answer to a HEAD has no body to say more.
    assert told in {"S3: SignatureDoesNotMatch", "S3: it answered 403"}


@pytest.mark.parametrize("use", USES, ids=NAMES)
async def test_a_server_that_is_away_is_unavailable(
    s3: ObjectStorage, use: Callable[[Storage], Awaitable[object]]
) -> None:
    nobody = ReservedPort()

    told = await refusal(
        use, S3Location(BUCKET, "s3", f"http://127.0.0.1:{nobody.number}", REGION, True)
    )

    assert "S3: it cannot be reached" == told
    nobody.release()


@pytest.mark.parametrize("use", USES, ids=NAMES)
async def test_a_server_that_hangs_is_unavailable_in_time(
    s3: ObjectStorage, use: Callable[[Storage], Awaitable[object]]
) -> None:
    s3.freeze()

    async with asyncio.timeout(20 * TIMEOUT_S):
        told = await refusal(use, location(s3))

    assert "S3: it did not answer in time" == told


async def test_a_server_that_hangs_amid_an_upload_stops_its_source(
    s3: ObjectStorage,
) -> None:
    async def source() -> AsyncIterator[bytes]:
        for number, chunk in enumerate(pattern(200 * MIB, MIB)):
            if number == 12:
                s3.freeze()
            yield chunk

    async with asyncio.timeout(20 * TIMEOUT_S):
        told = await refusal(lambda storage: storage.put("a", source()), location(s3))

    assert "S3: it did not answer in time" == told


@pytest.mark.parametrize("use", [USES[0], USES[1], USES[5], USES[6]])
async def test_a_bucket_that_is_not_there_is_unavailable(
    s3: ObjectStorage, use: Callable[[Storage], Awaitable[object]]
) -> None:
    here = location(s3)
    elsewhere = S3Location("no-such-bucket", "", here.endpoint, here.region, True)

    assert "S3: NoSuchBucket" == await refusal(use, elsewhere)


async def test_what_is_beside_our_prefix_is_not_ours(s3: ObjectStorage) -> None:
    ours, theirs = S3Storage(location(s3, "w1")), S3Storage(location(s3, "w10"))
    await write(theirs, "a", b"1")

    assert set() == await keys(ours)
    assert await ours.size("a") is None
    await theirs.delete("a")


FORKED = """
import asyncio, os, sys
from tests.storage.objects import read, write
from gateway.storage.opening import open_storage

storage = open_storage(sys.argv[1])

async def use():
    await write(storage, "a", b"1")
    await storage.aclose()

for _ in range(2):
    if os.fork() == 0:
        asyncio.run(use())
        os._exit(0)
for _ in range(2):
    assert os.wait()[1] == 0
"""


def test_workers_may_use_what_was_opened_before_they_were_forked(
    s3: ObjectStorage,
) -> None:
    command = [sys.executable, "-c", FORKED, s3.url("forked")]

    assert 0 == subprocess.run(command, check=True, timeout=30).returncode


def test_a_storage_shows_no_secret(s3: ObjectStorage) -> None:
    storage = S3Storage(location(s3))

    assert SECRET_KEY == os.environ["AWS_SECRET_ACCESS_KEY"]
    assert SECRET_KEY not in repr(vars(storage))
