"""Names are looked up once at a time, and never in a thread that others need."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from policies.store.resolver import Name, Resolver


class SlowSystem:
    """Answers when it is told to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()

    def look_up(self, name: Name) -> list[str]:
        self.asked += 1
        self.answers.wait(5)
        if name.host == "nowhere":
            raise OSError("no such host")
        return ["192.0.2.1"]


async def test_resolver_that_hangs_is_asked_once_by_all() -> None:
    """Reconnects by the hundred leave the event loop's threads to others."""
    system = SlowSystem()
    resolver = Resolver(system.look_up)
    for _ in range(100):
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await resolver.resolve("redis", 6379)

    async with asyncio.timeout(5):
        assert await asyncio.to_thread(lambda: "free") == "free"
        late = asyncio.ensure_future(resolver.resolve("redis", 6379))
        await asyncio.sleep(0)
        system.answers.set()
        assert await late == ["192.0.2.1"]
    assert system.asked == 1

    assert await resolver.resolve("redis", 6379) == ["192.0.2.1"]
    assert system.asked == 2


async def test_unknown_name_is_told_to_all_who_asked() -> None:
    """And looked up anew by the next."""
    system = SlowSystem()
    system.answers.set()
    resolver = Resolver(system.look_up)

    asked = [resolver.resolve("nowhere", 1) for _ in range(3)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [OSError] * 3 == [type(outcome) for outcome in outcomes]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "192.0.2.7"])
async def test_address_needs_no_look_up(host: str) -> None:
    """It is what it says."""
    system = SlowSystem()

    assert await Resolver(system.look_up).resolve(host, 1) == [host]
    assert system.asked == 0


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 300, "..", "\udcff"])
async def test_what_is_no_host_is_an_os_error(host: str) -> None:
    """Whatever an operator's URL holds."""
    with pytest.raises(OSError):  # noqa: PT011 - its kinds differ by system
        await Resolver().resolve(host, 1)
