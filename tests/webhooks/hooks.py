"""Receivers that keep what they are told, and a relay whose time a test makes pass."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from standardwebhooks import Webhook

from gateway.webhooks.outbox import DEAD_QUEUE, QUEUE, Delivery, Outbox
from gateway.webhooks.registrations import Registration, Registrations
from gateway.webhooks.relay import NextAttempt, Relay
from gateway.webhooks.signing import new_secret
from gateway.webhooks.targets import Allowed, Lookup
from policies.jobs.memory_jobs import MemoryJobs
from tests.webhooks.conftest import LOOPBACK, NO_TRUST, NOW_S

SECRET: Final = new_secret()
DAY_S: Final = 86_400


class Told(msgspec.Struct, frozen=True):
    """One request as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(self.body)
        return event

    def verified(self, secret: str = SECRET.reveal()) -> dict[str, Any]:
        """The event, if it was signed with this secret."""
        return dict(Webhook(secret).verify(self.body, self.headers))


class HookReceiver:
    """Answers with one status after the other, and with the last one for ever."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses or (200,))
        self.told: list[Told] = []
        self.port = 0
        # Cleared, it keeps whoever tells it something waiting for its answer.
        self.answers = asyncio.Event()
        self.answers.set()
        self.was_told = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=its-password"

    async def __call__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            self.told.append(Told(headers, body))
            self.was_told.set()
            await self.answers.wait()
            left = len(self._statuses) > 1
            status = self._statuses.pop(0) if left else self._statuses[0]
            writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the sender was killed
        finally:
            writer.close()


@asynccontextmanager
async def hooked(*statuses: int) -> AsyncIterator[HookReceiver]:
    receiver = HookReceiver(*statuses)
    server = await asyncio.start_server(receiver, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver
        receiver.answers.set()


def registered(url: str, workspace: str = "acme", *events: str) -> Registration:
    return Registration(
        workspace=workspace, url=url, secrets=(SECRET,), events=events or ("*",)
    )


class Hub:
    """A relay on a store in memory, by a clock that stands until it is moved."""

    def __init__(
        self,
        registrations: Iterable[Registration] = (),
        *,
        allowed: Allowed = LOOPBACK,
        lookup: Lookup | None = None,
        jobs: type[MemoryJobs] | None = None,
        next_attempt_s: NextAttempt = lambda attempt, *_: 10.0 if attempt < 3 else None,
    ) -> None:
        self.now_s = NOW_S
        self.registrations = Registrations(registrations)
        self.counted: list[str] = []
        # Set with every outcome that is counted.
        self.was_counted = asyncio.Event()
        self.jobs = (jobs or MemoryJobs)(lambda: int(self.now_s * 1000))
        self.outbox = Outbox(self.jobs, now_s=lambda: self.now_s)
        self.relay = Relay(
            self.outbox,
            lambda: self.registrations,
            allowed=allowed,
            trust=lambda: NO_TRUST,
            count=self._count,
            next_attempt_s=next_attempt_s,
            lookup=lookup,
        )

    def _count(self, told: str) -> None:
        self.counted.append(told)
        self.was_counted.set()

    async def publish(self, event_id: str = "evt_1", workspace: str = "acme") -> None:
        await self.relay.publish(workspace, event_id, "batch.completed", {"id": "b"})

    async def work(self, after_s: float = 0.0) -> int:
        """As a worker would, what is due when so much time has passed; how much."""
        self.now_s += after_s
        owner = f"owner-{random.random()}"
        due = await self.jobs.claim(QUEUE, owner, lease_ms=60_000, most=1000)
        for item in due:
            again_ms = await self.relay.drive(item)
            if again_ms is None:
                await self.jobs.finish(QUEUE, item, owner)
            else:
                await self.jobs.put_off(QUEUE, item, owner, in_ms=again_ms)
        return len(due)

    async def dead_letters(self, after_s: float = 0.0) -> int:
        """How many there are by their queue, once what is due of it was looked at."""
        self.now_s += after_s
        due = await self.jobs.claim(DEAD_QUEUE, "clerk", lease_ms=60_000, most=1000)
        for item in due:
            again_ms = await self.outbox.look_at_dead(item)
            if again_ms is None:
                await self.jobs.finish(DEAD_QUEUE, item, "clerk")
            else:
                await self.jobs.put_off(DEAD_QUEUE, item, "clerk", in_ms=again_ms)
        return (await self.jobs.standing(DEAD_QUEUE)).items

    async def deliveries(self, workspace: str = "acme") -> list[Delivery]:
        return [held.delivery async for held in self.outbox.all_of(workspace)]

    async def delivery(self) -> Delivery:
        (only,) = await self.deliveries()
        return only
