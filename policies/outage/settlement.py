"""
One lease's end on its way into the store, where it must arrive exactly once.

Every step is safe to repeat by the lease id, for as long as the store remembers it:

- A lease it holds is settled. One that it never heard of, or lost, is adopted at what
  was used and then settled.
- It remembers for one ttl that a lease was settled. A settlement whose reply was lost
  is made up for by adopting only within that time; after it the lease is only settled,
  since adopting could charge it twice. What is lost by that is lost once.
- It remembers for an hour what it abandoned. A lease that it may have abandoned, and
  charged by its presumption, is not adopted after that either.
"""

from __future__ import annotations

import uuid
from typing import Final

import msgspec

from policies.ledger import NOTHING, Demand, Ledger, Usage
from policies.outage.running_leases import RunningLease
from policies.store.errors import StoreUnavailable

# Less than the hour for which every ledger remembers an abandoned lease.
ABANDONED_KNOWN_US: Final = 3500 * 1_000_000
# A step is sent within this of its decision, so the store's own clock has not run out.
MARGIN_US: Final = 1_000_000


class Settlement:
    """What a lease is settled at, and what the store may know of it."""

    __slots__ = (
        "actual",
        "admitted_us",
        "demand",
        "is_known",
        "lease_id",
        "leases",
        "maybe_held_us",
        "maybe_settled_us",
        "queued_us",
        "was_sent",
        "workspace",
    )

    def __init__(self, workspace: str, lease_id: str, actual: Usage) -> None:
        """A lease of which nothing is known here: it can only be settled."""
        self.workspace = workspace
        self.lease_id = lease_id
        self.actual = actual
        # How many ended leases it is the sum of.
        self.leases = 1
        self.demand: Demand | None = None
        self.admitted_us = 0
        self.is_known = False
        self.was_sent = False
        # When the store last surely held it; if it never did, when it may have first.
        self.maybe_held_us: int | None = None
        # When it was first told to settle it, without a reply.
        self.maybe_settled_us: int | None = None
        self.queued_us = 0

    @classmethod
    def of(cls, lease: RunningLease, actual: Usage) -> Settlement:
        settlement = cls(lease.demand.workspace, lease.demand.lease_id, actual)
        settlement.demand = lease.demand
        settlement.admitted_us = lease.admitted_us
        settlement.is_known = lease.is_known
        settlement.maybe_held_us = lease.confirmed_us
        return settlement

    @property
    def is_unheard_of(self) -> bool:
        """Whether the store cannot know this lease, so that its id does not matter."""
        return self.maybe_held_us is None and self.maybe_settled_us is None

    def add(self, other: Settlement) -> None:
        """Settle another lease with this one, neither of which the store knows."""
        self.actual = Usage(
            self.actual.requests + other.actual.requests,
            self.actual.tokens + other.actual.tokens,
        )
        # The latest: limits may have been changed under the plan's name.
        self.demand = other.demand
        self.leases += other.leases

    async def send(self, ledger: Ledger, now_us: int, ttl_us: int) -> bool:
        """
        Settle in the store; False if nothing was held or charged by it.

        On StoreUnavailable, or cancelled, it may be sent again.
        """
        is_first = self.is_known and not self.was_sent
        if not self._has_to_adopt(now_us, ttl_us):
            if await self._settle(ledger, now_us):
                return True
            if not is_first or not self.was_lost(now_us):
                return False
            # Nothing was charged, and from now on this id is barred.
            self.rename()
        return await self._adopt(ledger, now_us) and await self._settle(ledger, now_us)

    def _has_to_adopt(self, now_us: int, ttl_us: int) -> bool:
        if self.demand is None or (self.is_known and not self.was_sent):
            return False
        if self.actual == NOTHING:
            # Whether it is held or not, settling it leaves nothing behind.
            return False
        settled_us, held_us = self.maybe_settled_us, self.maybe_held_us
        if settled_us is not None and now_us - settled_us > ttl_us - MARGIN_US:
            return False
        return held_us is None or now_us - held_us < ABANDONED_KNOWN_US

    def was_lost(self, now_us: int) -> bool:
        """Whether the store held this lease and does so no more, uncharged."""
        held_us = self.maybe_held_us
        return (
            self.demand is not None
            and self.actual != NOTHING
            and held_us is not None
            and now_us - held_us < ABANDONED_KNOWN_US
        )

    def rename(self) -> None:
        """Go on as a lease of which the store has never heard."""
        self.lease_id = uuid.uuid4().hex
        self.is_known = False
        self.was_sent = True
        self.maybe_held_us = None
        self.maybe_settled_us = None

    def note_sent(self, error: BaseException | None, now_us: int) -> None:
        """It was told to the store, which ended so; None is a call that was cut off."""
        self.was_sent = True
        if self.maybe_settled_us is None and (
            error is None or may_have_happened(error)
        ):
            self.maybe_settled_us = now_us

    async def _adopt(self, ledger: Ledger, now_us: int) -> bool:
        assert self.demand is not None  # noqa: S101  # see _has_to_adopt
        charge = msgspec.structs.replace(
            self.demand, lease_id=self.lease_id, reserve=self.actual
        )
        age_ms = max(0, now_us - self.admitted_us) // 1000
        self.was_sent = True
        try:
            is_held = await ledger.adopt(charge, age_ms)
        except BaseException as error:
            if may_have_happened(error) and self.maybe_held_us is None:
                self.maybe_held_us = now_us
            raise
        self.maybe_held_us = now_us
        return is_held

    async def _settle(self, ledger: Ledger, now_us: int) -> bool:
        self.was_sent = True
        try:
            return await ledger.settle(self.workspace, self.lease_id, self.actual)
        except BaseException as error:
            self.note_sent(error, now_us)
            raise


def may_have_happened(error: BaseException) -> bool:
    """Whether a call that ended so may have been executed, as one cancelled may."""
    return not isinstance(error, StoreUnavailable) or error.is_ambiguous
