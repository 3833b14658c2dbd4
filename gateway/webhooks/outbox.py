"""
Deliveries as they are kept: one for each event and receiver, found, listed and saved.

A receiver's URL is not in them, for many a URL is its password, and nor is a secret:
both are looked up among the registrations when somebody is told.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, Literal, TypeAlias

import msgspec

from policies.jobs.port import JobStore, Kept, RecordName, new_record_id, time_of_id

KIND: Final = "delivery"
QUEUE: Final = "webhooks"
# Dead letters that are kept, so that somebody can tell how many.
DEAD_QUEUE: Final = "dead_letters"
ID_PREFIX: Final = "dlv_"

_DAY_MS: Final = 86_400_000
# Its attempts take two days at most; the rest is for a store that was away.
PENDING_MS: Final = 30 * _DAY_MS
DELIVERED_MS: Final = 3 * _DAY_MS
DEAD_MS: Final = 30 * _DAY_MS
# LLMTune sends an event again for five days; each of them is still known then.
KNOWN_MS: Final = 6 * _DAY_MS
# Until a change of the record that is due at once is surely made, or surely not.
SURELY_CHANGED_MS: Final = 60_000
# A dead letter is counted until somebody sees that it is none any more.
DEAD_LOOK_MS: Final = _DAY_MS

# Which workspaces have any; no workspace's name, for theirs have no colon.
_PLACE: Final = ":webhooks"
_WORKSPACES: Final = "workspaces"
_PAGE: Final = 200

State: TypeAlias = Literal["pending", "delivered", "dead"]


class Delivery(msgspec.Struct, kw_only=True):
    """One event on its way to one receiver."""

    id: str
    workspace: str
    registration_id: str
    # Scheme and host of its URL, and no more of it.
    receiver: str
    event_id: str
    type: str
    # When it happened, in epoch seconds.
    created_at: int
    data: msgspec.Raw
    state: State = "pending"
    # Since it was made, or replayed.
    attempts: int = 0
    # Not before then, by the clock of whoever attempts it.
    due_ms: int = 0
    # Of the last attempt, in a word.
    outcome: str = ""

    def body(self) -> bytes:
        """What is posted, in the form of OpenAI's webhooks; each time the same."""
        return msgspec.json.encode(
            {
                "id": self.event_id,
                "object": "event",
                "type": self.type,
                "created_at": self.created_at,
                "data": self.data,
            }
        )

    def shown(self) -> dict[str, Any]:
        """For an operator: everything but what it says."""
        fields = (name for name in self.__struct_fields__ if name != "data")
        return {name: getattr(self, name) for name in fields}


class Held(msgspec.Struct):
    """A delivery, and as which version it was read."""

    delivery: Delivery
    version: int


class LateDelivery(Exception):
    """Somebody else changed it meanwhile."""


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Delivery).decode


class Outbox:
    """The deliveries of all workspaces; JobsUnavailable."""

    def __init__(
        self, jobs: JobStore, *, now_s: Callable[[], float] = time.time
    ) -> None:
        self._jobs = jobs
        self._now_s = now_s

    @property
    def now_ms(self) -> int:
        return int(self._now_s() * 1000)

    async def name(
        self, workspace: str, event_id: str, registration_ids: Iterable[str]
    ) -> dict[str, str]:
        """The deliveries' ids by receiver: the same whenever somebody asks."""
        new = {
            each: new_record_id(ID_PREFIX, self.now_ms).encode()
            for each in registration_ids
        }
        collection = f"event:{event_id}"
        await self._jobs.collect(workspace, collection, new, KNOWN_MS)
        known = await self._jobs.collected(workspace, collection)
        return {each: known.get(each, new[each]).decode() for each in new}

    async def put(self, delivery: Delivery) -> None:
        """Keep one and have it delivered; if it is kept already, have it looked at."""
        if not await self._is_new(delivery):
            held = await self.find(delivery.workspace, delivery.id)
            if held is None or held.delivery.state != "pending":
                return
        item = item_of(delivery)
        await self._jobs.schedule(QUEUE, item)

    async def _is_new(self, delivery: Delivery) -> bool:
        if made_ms(delivery.id) + DELIVERED_MS <= self.now_ms:
            # Was kept, delivered and forgotten: no record is no sign of a crash here.
            return False
        places = {delivery.workspace: b""}
        await self._jobs.collect(_PLACE, _WORKSPACES, places, PENDING_MS + DEAD_MS)
        return await self._jobs.create(
            _name_of(delivery), _encode(delivery), PENDING_MS
        )

    async def find(self, workspace: str, delivery_id: str) -> Held | None:
        """One delivery, or None."""
        kept = await self._jobs.read(RecordName(workspace, KIND, delivery_id))
        return None if kept is None else _held(kept)

    async def save(self, held: Held) -> None:
        """Write what became of an attempt; LateDelivery if somebody else wrote."""
        if held.delivery.state == "dead":
            # Before it is: whoever dies in between leaves none that is not counted.
            await self._jobs.schedule(
                DEAD_QUEUE, item_of(held.delivery), in_ms=SURELY_CHANGED_MS
            )
        ends = {"pending": None, "delivered": DELIVERED_MS, "dead": DEAD_MS}
        await self._replace(held, ends[held.delivery.state])

    async def replay(self, held: Held) -> None:
        """Have it attempted anew and at once, whatever became of it; LateDelivery."""
        delivery = held.delivery
        delivery.state, delivery.attempts, delivery.due_ms = "pending", 0, 0
        # Twice, so that whoever dies between both writes leaves nothing that is pending
        # and never due; and so late that it is not looked at before it is changed.
        item = item_of(delivery)
        await self._jobs.schedule(QUEUE, item, in_ms=SURELY_CHANGED_MS)
        await self._replace(held, PENDING_MS)
        await self._jobs.schedule(QUEUE, item)
        await self._jobs.schedule(DEAD_QUEUE, item)

    async def look_at_dead(self, item: str) -> int | None:
        """Work of `DEAD_QUEUE`: when to look again, or None if it is dead no more."""
        workspace, _, delivery_id = item.partition(" ")
        held = await self.find(workspace, delivery_id)
        is_dead = held is not None and held.delivery.state == "dead"
        return DEAD_LOOK_MS if is_dead else None

    async def _replace(self, held: Held, ttl_ms: int | None) -> None:
        name, body = _name_of(held.delivery), _encode(held.delivery)
        if not await self._jobs.replace(name, body, held.version, ttl_ms):
            raise LateDelivery
        held.version += 1

    async def workspaces(self) -> list[str]:
        """Those that may have deliveries."""
        return sorted(await self._jobs.collected(_PLACE, _WORKSPACES))

    async def all_of(self, workspace: str) -> AsyncIterator[Held]:
        """A workspace's deliveries, the newest first."""
        after = None
        while True:
            page = await self._jobs.page(workspace, KIND, after=after, limit=_PAGE)
            for kept in page:
                yield _held(kept)
            if len(page) < _PAGE:
                return
            after = page[-1].record_id


def item_of(delivery: Delivery) -> str:
    """A delivery as an item of work."""
    return f"{delivery.workspace} {delivery.id}"


def made_ms(delivery_id: str) -> int:
    """When an id was made, which is when its event was first told of."""
    return time_of_id(ID_PREFIX, delivery_id)


def _name_of(delivery: Delivery) -> RecordName:
    return RecordName(delivery.workspace, KIND, delivery.id)


def _held(kept: Kept) -> Held:
    return Held(_decode(kept.body), kept.version)
