"""Storages to try: a directory, and a folder in the bucket of a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from gateway.storage.opening import open_storage
from gateway.storage.port import Storage
from tests.servers.object_storage import ACCESS_KEY, SECRET_KEY, ObjectStorage


@pytest.fixture(scope="session")
def session_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStorage]:
    server = ObjectStorage(tmp_path_factory.mktemp("s3"))
    try:
        asyncio.run(server.start())
        yield server
    finally:
        server.close()


@pytest.fixture
def s3(
    session_s3: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStorage]:
    """A server, and our credentials in the environment; shared, so leave it running."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    yield session_s3
    session_s3.thaw()


@pytest.fixture(params=["local", "s3"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty storage that nobody else uses."""
    if request.param == "local":
        return f"file://{tmp_path}/objects"
    server: ObjectStorage = request.getfixturevalue("s3")
    return server.url(f"test-{uuid4().hex}")


@pytest.fixture
async def storage(storage_url: str) -> AsyncIterator[Storage]:
    storage = open_storage(storage_url)
    yield storage
    await storage.aclose()
