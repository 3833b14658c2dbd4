"""What a storage did, told to whoever counts: one outcome for each call."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.storage.counting import CountedStorage
from gateway.storage.local import LocalStorage
from gateway.storage.opening import open_storage
from gateway.storage.port import ObjectMissing, Storage, StorageUnavailable


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def broken() -> AsyncIterator[bytes]:
    yield b"a"
    raise ConnectionError("the client left")


class Counted:
    def __init__(self, storage: Storage) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.storage = CountedStorage(storage, self._count)

    def _count(self, call: str, outcome: str) -> None:
        self.calls[call, outcome] += 1


@pytest.fixture
def counted(storage: Storage) -> Counted:
    return Counted(storage)


async def test_each_call_is_counted_once(counted: Counted) -> None:
    """At its end; that nothing is there is an answer."""
    storage = counted.storage

    await storage.put("a/b", chunks(b"Hel", b"lo"))
    assert [b"Hello"] == [each async for each in storage.open("a/b")]
    assert ["a/b"] == [each async for each in storage.list("a")]
    assert 5 == await storage.size("a/b")
    await storage.check()
    await storage.delete("a/b")
    with pytest.raises(ObjectMissing):
        await anext(storage.open("a/b"))

    done = dict.fromkeys(("put", "open", "list", "size", "check", "delete"), "ok")
    assert counted.calls == Counter([*done.items(), ("open", "missing")])


async def test_what_others_break_off_is_no_outcome(counted: Counted) -> None:
    """An upload that ends in an error, be it another object's; a reader that leaves."""
    with pytest.raises(ConnectionError):
        await counted.storage.put("a", broken())
    with pytest.raises(ObjectMissing):
        await counted.storage.put("a", counted.storage.open("gone"))
    await counted.storage.put("a", chunks(b"x" * 1_000_000))
    reading = counted.storage.open("a")
    await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined] # a generator, as all are

    assert counted.calls == Counter([("open", "missing"), ("put", "ok")])


class NotingStorage(LocalStorage):
    """Notes when one of its readers has let go."""

    was_left = False

    async def open(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[bytes]:
        try:
            yield b"Hello"
        finally:
            self.was_left = True


async def test_who_stops_reading_has_let_go_of_the_object(tmp_path: Path) -> None:
    """At once, and not whenever its generator is collected."""
    storage = NotingStorage(tmp_path)
    reading = Counted(storage).storage.open("a")

    await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined] # a generator, as all are

    assert storage.was_left


async def test_a_storage_that_cannot_is_counted_as_such(tmp_path: Path) -> None:
    """A file where its folder should be: nothing can be written."""
    (tmp_path / "objects").write_text("in the way")
    counted = Counted(open_storage((tmp_path / "objects").as_uri()))

    with pytest.raises(StorageUnavailable):
        await counted.storage.put("a", chunks(b"x"))
    with pytest.raises(StorageUnavailable):
        await counted.storage.check()

    assert counted.calls == Counter([("put", "unavailable"), ("check", "unavailable")])
