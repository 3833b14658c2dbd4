"""
The ledger's port: what every implementation promises, and the values that cross it.

The rules, for memory and Redis alike:

- One admission looks at every limit of the plan, then charges all or none of them.
- A reservation is replaced by what was really used exactly once per lease id, on every
  way out. A second settlement of the same lease changes nothing.
- An admission repeated with a lease id that is already held returns the same lease and
  charges nothing: its first reply may have been lost.
- Repeated with a lease id that was settled within the last ttl it raises LeaseSettled:
  a late duplicate must not hold a place nobody would give back, and a caller that uses
  ids twice must not run for free. So does one that arrives after its own settlement.
- A lease not renewed for its ttl is abandoned: its place is free, and it is settled, as
  of that instant, at the last progress it reported, or at its whole reservation if it
  reported none. That is a presumption: an owner that settles after all, within an hour,
  corrects the amount.
- A request belongs to the window it was admitted in: what it settles after the window's
  end, refund or top-up, changes nothing in the next one.
- Usage belongs to a dimension (rate or quota, of what, per what), not to a plan: a
  changed plan takes effect at once and keeps what was used.
- A key with limits of its own is held to both: they are further dimensions of its
  workspace, decided in the same admission.
- A limit in shadow is charged only by what it would have admitted, so that it shows
  what enforcing it would do. Any limit admits a demand for none of its units.
- A lease that takes no place is charged and settled like any other, and no concurrency
  limit counts it: for whoever is told of a request's beginning and not of its end.
- Time comes from the ledger (the server's own clock), never from the caller.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Literal, Protocol, TypeAlias

import msgspec

from policies.plans import KeyLimits, Limit, Plan


class Usage(msgspec.Struct, frozen=True):
    """What a request costs: a reservation before, the truth afterwards."""

    requests: int = 1
    tokens: int = 0


# What a request that never reached its upstream costs.
NOTHING = Usage(requests=0, tokens=0)


class KeyScope(msgspec.Struct, frozen=True):
    """A key with limits of its own; `id` is where what it used is counted."""

    id: str
    limits: KeyLimits


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """One request that asks to be admitted."""

    workspace: str
    plan: Plan
    # Chosen by the caller, so that a repeated admission can be recognised.
    lease_id: str
    reserve: Usage
    key: KeyScope | None = None
    # False: its lease counts for no concurrency limit, from its first instant.
    takes_place: bool = True


# Made five times a request, of which none can be part of a cycle: uncollected each is
# up to 0.1 us cheaper, and the collector need not walk the thousands remembered.
class LimitState(msgspec.Struct, frozen=True, gc=False):
    """Where one limit stands right after a decision."""

    limit: Limit
    # Of a rate: what its bucket holds; of the others: the limit itself.
    capacity: int
    # Reservations included. May exceed capacity after a top-up.
    used: int
    # How long until this limit would be untouched if nothing more came: the bucket full
    # again, or the window's end. 0 for concurrency, whose end nobody knows.
    reset_after_ms: int
    # What of it is reserved for requests that still run.
    reserved: int = 0
    # Whether it is the key's own limit, not its workspace's.
    is_of_key: bool = False

    @property
    def name(self) -> str:
        """The dimension as operators and clients are told it."""
        return f"key-{self.limit.name}" if self.is_of_key else self.limit.name

    @property
    def remaining(self) -> int:
        return max(0, self.capacity - self.used)


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """The request may run; its lease must be settled."""

    lease_id: str
    states: tuple[LimitState, ...]
    # Shadow limits that would have refused it.
    shadowed: tuple[Limit, ...] = ()
    # False: decided without the shared store, by a share of the plan or not at all.
    is_exact: bool = True


RejectionReason: TypeAlias = Literal[
    "rate",  # the bucket is too empty now
    "concurrency",  # every lease is taken
    "quota",  # the window's budget is spent
    "too_large",  # more than the whole bucket or budget: waiting cannot help
]


class Rejected(msgspec.Struct, frozen=True, kw_only=True):
    """The request may not run, and nothing was charged."""

    reason: RejectionReason
    # The limit that binds longest, as it stands.
    binding: LimitState
    # What the request asked of that limit, in its units.
    requested: int
    # The true wait until the binding limit would admit it: None where waiting cannot
    # help (too_large) or nobody knows (concurrency).
    retry_after_ms: int | None
    states: tuple[LimitState, ...]
    is_exact: bool = True


Decision: TypeAlias = Admitted | Rejected


class LeaseSettled(Exception):
    """An admission was repeated after its lease was settled; nothing was charged."""


class LedgerUnavailable(Exception):
    """The ledger cannot decide now, and the plan does not let it guess."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__("the ledger cannot decide now")
        self.retry_after_ms = retry_after_ms


class Ledger(Protocol):
    """Counts what workspaces use and decides what they still may."""

    @property
    def lease_ttl_ms(self) -> int:
        """How long a lease lives without being renewed."""
        ...

    @property
    def abandoned_total(self) -> int:
        """Leases this instance found abandoned, since its start."""
        ...

    async def admit(self, demand: Demand) -> Decision:
        """
        Check every limit, then charge all of them or none.

        Raises LeaseSettled for a lease id that was settled within the last ttl, and
        LedgerUnavailable where a shared store is away and the plan says closed.
        """
        ...

    async def adopt(self, demand: Demand, age_ms: int = 0) -> bool:
        """
        Hold and charge a lease that was admitted elsewhere, whatever the limits say.

        `age_ms` is how long ago that was. A lease that is known keeps its charge, and
        one that was abandoned lives again. False if it has been settled.
        """
        ...

    async def preview(self, demand: Demand) -> Decision:
        """What `admit` would decide now; charges nothing and ignores the lease id."""
        ...

    async def renew(self, workspace: str, lease_id: str, tokens: int) -> bool:
        """
        Keep a lease alive and note the tokens used so far, which never fall.

        What is above the reservation is charged at once: a long stream shows in its
        limits while it runs. 0 is no report: abandoned after it, the lease costs its
        whole reservation.
        False if the lease is no longer held (settled, or abandoned and reclaimed).
        """
        ...

    async def settle(self, workspace: str, lease_id: str, actual: Usage) -> bool:
        """
        Replace the reservation by what was used and free the lease, once.

        A refund goes back to the window it was taken from; a top-up may take a limit
        below zero. False if there was nothing left to settle.
        """
        ...

    def settle_soon(
        self, workspace: str, lease_id: str, actual: Usage
    ) -> Awaitable[bool] | None:
        """
        As `settle`, begun at once and not waited for: None where it is done already.

        What is returned is an `asyncio.Future`, which `asyncio.ensure_future` hands
        back as it is. Said so only here, because values that cross this port are for
        modules that may not know asyncio.
        """
        ...

    async def inspect(
        self, workspace: str, plan: Plan, key: KeyScope | None = None
    ) -> tuple[LimitState, ...]:
        """
        Where the workspace stands under this plan, and the key; charges nothing.

        In order: the plan's rates, quotas and concurrency, then the key's.
        """
        ...

    async def aclose(self) -> None:
        """Give back what the ledger itself holds."""
        ...
