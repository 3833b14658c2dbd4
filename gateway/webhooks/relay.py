"""
The relay: an event becomes a delivery for each of its receivers, and a delivery is
attempted until it is taken, given up, or not wanted.

At least once: who dies between an answer and its note tells again, under the same id.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random as randomness
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from gateway.webhooks.backoff import next_attempt_s
from gateway.webhooks.delivery import TIMEOUT_S, Outcome, deliver
from gateway.webhooks.outbox import (
    KNOWN_MS,
    Delivery,
    Held,
    LateDelivery,
    Outbox,
    made_ms,
)
from gateway.webhooks.places import Places
from gateway.webhooks.registrations import Registration, Registrations
from gateway.webhooks.signing import sign
from gateway.webhooks.targets import Allowed, Lookup

logger = logging.getLogger(__name__)

EVENT_PREFIX: Final = "evt_"
# What can be signed; see signing.py.
_ID_FORM: Final = re.compile(r"evt_[A-Za-z0-9_-]{1,124}")
# What a delivery's last outcome is where there was no receiver to ask.
NOT_REGISTERED: Final = "not_registered"
# Whoever published it knew a receiver that this replica may only come to know: a
# mounted file reaches the last node a minute or two after the first.
UNKNOWN_MS: Final = 10 * 60_000
LOOK_AGAIN_MS: Final = 5_000

Told: TypeAlias = Literal["delivered", "retried", "dead", "refused_target"]
NextAttempt: TypeAlias = Callable[[int, float, float | None], float | None]


class Publish(Protocol):
    """How events are handed to the relay."""

    def __call__(
        self,
        workspace: str,
        event_id: str,
        event_type: str,
        data: dict[str, Any],
        occurred_at_s: float | None = None,
    ) -> Awaitable[None]:
        """Tell whoever is registered, once however often this is called."""
        ...


class Relay:
    """Publishes events, and drives what came of it."""

    def __init__(
        self,
        outbox: Outbox,
        registrations: Callable[[], Registrations],
        *,
        allowed: Allowed,
        trust: Callable[[], ssl.SSLContext],
        count: Callable[[Told], None],
        next_attempt_s: NextAttempt = next_attempt_s,
        timeout_s: float = TIMEOUT_S,
        lookup: Lookup | None = None,
    ) -> None:
        """`registrations` are those in force; `trust` may take its time at first."""
        self._outbox = outbox
        self._registrations = registrations
        self._allowed = allowed
        self._trust = trust
        self._count = count
        self._next_attempt_s = next_attempt_s
        self._timeout_s = timeout_s
        self._lookup = lookup
        self._places = Places()
        # From 0 to 1: spreads, guards nothing.
        self._random = randomness.Random().random  # noqa: S311

    # From an event to its deliveries.

    async def publish(
        self,
        workspace: str,
        event_id: str,
        event_type: str,
        data: dict[str, Any],
        occurred_at_s: float | None = None,
    ) -> None:
        """
        Keep a delivery for each receiver; JobsUnavailable, and then it may be repeated.

        An event that was published before becomes nothing new, also where the first
        time was cut off anywhere.
        """
        targets = self._registrations().targets_for(workspace, event_type)
        if not targets:
            return
        event_id = to_event_id(event_id)
        known = await self._outbox.name(workspace, event_id, [t.id for t in targets])
        encoded = msgspec.Raw(msgspec.json.encode(data))
        for target in targets:
            made_s = made_ms(known[target.id]) // 1000
            delivery = Delivery(
                id=known[target.id],
                workspace=workspace,
                registration_id=target.id,
                receiver=receiver_of(target),
                event_id=event_id,
                type=event_type,
                created_at=made_s if occurred_at_s is None else int(occurred_at_s),
                data=encoded,
            )
            await self._outbox.put(delivery)

    # From a delivery to its next state.

    async def drive(self, item: str) -> int | None:
        """One attempt at most; in how many ms to look again, or None for never."""
        workspace, _, delivery_id = item.partition(" ")
        held = await self._outbox.find(workspace, delivery_id)
        if held is None or held.delivery.state != "pending":
            return None
        wait_ms = held.delivery.due_ms - self._outbox.now_ms
        if wait_ms > 0:
            # Published again, or looked at by whoever took it over.
            return wait_ms
        try:
            return await self._drive(held)
        except LateDelivery:
            # Replayed meanwhile: what is written there holds.
            return 0

    async def _drive(self, held: Held) -> int | None:
        delivery = held.delivery
        target = self._registrations().find(
            delivery.workspace, delivery.registration_id
        )
        if target is None:
            return await self._wait_or_bury(held)
        now_ms = self._outbox.now_ms
        wait_ms = self._places.wait_ms(target.id, now_ms)
        if wait_ms > 0:
            # Spread, so that what waits for it does not come back together.
            return int(wait_ms * (0.5 + self._random()))
        with self._places.taken(target.id, now_ms):
            outcome = await self._attempt(delivery, target)
        delivery.attempts += 1
        if outcome.is_delivered:
            delivery.state, delivery.outcome = "delivered", in_a_word(outcome)
            await self._outbox.save(held)
            self._count("delivered")
            return None
        return await self._put_off_or_bury(held, outcome)

    async def _attempt(self, delivery: Delivery, target: Registration) -> Outcome:
        now_s = self._outbox.now_ms / 1000
        body = delivery.body()
        signature = sign(target.secrets, delivery.event_id, int(now_s), body)
        if target.url.startswith("https"):
            # Reading certificates takes a tenth of a second, the first time.
            await asyncio.to_thread(self._trust)
        return await deliver(
            target.url,
            ((b"content-type", b"application/json"), *signature),
            body,
            allowed=self._allowed,
            trust=self._trust,
            now_s=now_s,
            timeout_s=self._timeout_s,
            lookup=self._lookup,
        )

    async def _put_off_or_bury(self, held: Held, outcome: Outcome) -> int | None:
        delivery = held.delivery
        wait_s = None
        if not outcome.is_final and outcome.fault != "refused_target":
            wait_s = self._next_attempt_s(
                delivery.attempts, self._random(), outcome.retry_after_s
            )
        if wait_s is None:
            await self._bury(held, in_a_word(outcome))
            return None
        wait_ms = int(wait_s * 1000)
        delivery.due_ms = self._outbox.now_ms + wait_ms
        delivery.outcome = in_a_word(outcome)
        await self._outbox.save(held)
        self._count("retried")
        return wait_ms

    async def _wait_or_bury(self, held: Held) -> int | None:
        """
        Replicas take a changed file over one after the other. Then whoever has its
        place is told: somebody may have mended its URL.
        """
        delivery = held.delivery
        age_ms = self._outbox.now_ms - made_ms(delivery.id)
        if age_ms < UNKNOWN_MS:
            return LOOK_AGAIN_MS
        # As long as is known who was told already.
        if age_ms < KNOWN_MS:
            await self.publish(
                delivery.workspace,
                delivery.event_id,
                delivery.type,
                msgspec.json.decode(delivery.data),
                delivery.created_at,
            )
        await self._bury(held, NOT_REGISTERED)
        return None

    async def _bury(self, held: Held, why: str) -> None:
        delivery = held.delivery
        delivery.state, delivery.outcome = "dead", why
        await self._outbox.save(held)
        self._count("refused_target" if why == "refused_target" else "dead")
        facts = {
            "delivery": delivery.id,
            "workspace": delivery.workspace,
            "event": delivery.event_id,
            "type": delivery.type,
            "receiver": delivery.receiver,
            "attempts": delivery.attempts,
            "outcome": why,
        }
        logger.warning("a webhook was given up", extra={"facts": facts})


def to_event_id(own: str) -> str:
    """An id in the form of OpenAI's, which any receiver of theirs takes."""
    named = own if own.startswith(EVENT_PREFIX) else EVENT_PREFIX + own
    if _ID_FORM.fullmatch(named):
        return named
    return EVENT_PREFIX + hashlib.sha256(own.encode()).hexdigest()


def receiver_of(target: Registration) -> str:
    """Where a webhook goes, without the parts of its URL that may be secret."""
    scheme, _, rest = target.url.partition("://")
    return f"{scheme.lower()}://{rest.partition('/')[0].partition('?')[0]}"


def in_a_word(outcome: Outcome) -> str:
    """A status, or the fault that was in the way of one."""
    return str(outcome.status if outcome.status is not None else outcome.fault)
