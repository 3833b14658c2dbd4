"""
The limits in force for a demand, and where each of them is counted.

Made once for a plan and kept until it changes, so that a decision looks nothing up and
asks no limit again what kind it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from policies.ledger import LimitState, Usage
from policies.meters import NEVER_MS, UNKNOWN_MS, Meter
from policies.plans import Concurrency, Limit, Rate


class Places:
    """The leases of a workspace or of one key of it, and what they reserved."""

    __slots__ = ("beyond_shadow", "held", "passing", "requests", "scope_id", "tokens")

    def __init__(self, scope_id: str) -> None:
        # A key's, or empty for the workspace itself.
        self.scope_id = scope_id
        self.held = 0
        # Of them, those a concurrency limit in shadow would have refused.
        self.beyond_shadow = 0
        # Leases that take no place. As long as there is one, its owner may settle it.
        self.passing = 0
        # What they were charged at their admission.
        self.requests = 0
        self.tokens = 0

    def taken(self, limit: Limit) -> int:
        # In shadow, a lease that enforcement would have refused takes no place; once
        # the limit is enforced, every lease that runs does.
        return self.held - self.beyond_shadow if limit.shadow else self.held

    @property
    def is_awaited(self) -> bool:
        """Whether somebody has still to settle here."""
        return self.held > 0 or self.passing > 0

    def take(self, reserve: Usage, *, is_beyond_shadow: bool, sign: int = 1) -> None:
        """One lease more, or with the sign -1 one less."""
        self.held += sign
        self.beyond_shadow += sign * is_beyond_shadow
        self.requests += sign * reserve.requests
        self.tokens += sign * reserve.tokens


class Slot:
    """One limit in force and where it is counted; concurrency has no meter."""

    __slots__ = (
        "capacity",
        "dimension",
        "is_of_key",
        "is_of_tokens",
        "is_shadow",
        "limit",
        "meter",
        "places",
    )

    def __init__(
        self, limit: Limit, dimension: str, places: Places, meter: Meter | None
    ) -> None:
        self.limit = limit
        self.dimension = dimension
        self.places = places
        self.meter = meter
        # What a decision would ask the limit for, at 0.1 us a property and limit.
        self.capacity = limit.capacity if isinstance(limit, Rate) else limit.limit
        self.is_of_tokens = not isinstance(limit, Concurrency) and limit.of == "tokens"
        self.is_of_key = bool(places.scope_id)
        self.is_shadow = limit.shadow

    def units(self, usage: Usage) -> int:
        """What the limit counts of it; a request takes one place."""
        if self.meter is None:
            return 1
        return usage.tokens if self.is_of_tokens else usage.requests

    def fits(self, demanded: Usage, now_us: int) -> bool:
        """Whether the limit has room for it now."""
        meter = self.meter
        if meter is None:
            return self.places.taken(self.limit) < self.capacity
        units = demanded.tokens if self.is_of_tokens else demanded.requests
        return meter.fits(units, now_us)

    def wait_ms(self, demanded: Usage, now_us: int) -> int:
        """How long until what does not fit now would."""
        if self.meter is None:
            # Where there is no place at all, none will ever be free.
            return UNKNOWN_MS if self.capacity > 0 else NEVER_MS
        return self.meter.wait_ms(self.units(demanded), now_us)

    def state(self, now_us: int) -> LimitState:
        """Where the limit stands."""
        meter, places = self.meter, self.places
        if meter is None:
            used = reserved = places.taken(self.limit)
            reset_after_ms = 0
        else:
            used, reset_after_ms = meter.standing(now_us)
            reserved = places.tokens if self.is_of_tokens else places.requests
        return LimitState(
            self.limit,
            self.capacity,
            used,
            reset_after_ms,
            reserved if reserved < used else used,
            self.is_of_key,
        )


class InForce:
    """Every limit that a demand has to pass, and the places that it takes."""

    __slots__ = ("metered", "places", "shadow", "slots")

    def __init__(self, places: Sequence[Places], slots: Iterable[Slot]) -> None:
        self.places = tuple(places)
        # In the order they are reported.
        self.slots = tuple(slots)
        self.metered = tuple(
            (slot, slot.meter) for slot in self.slots if slot.meter is not None
        )
        self.shadow = tuple(slot for slot in self.slots if slot.is_shadow)

    def states(self, now_us: int) -> tuple[LimitState, ...]:
        """Where all of them stand."""
        return tuple([slot.state(now_us) for slot in self.slots])

    def refusing(self, demanded: Usage, now_us: int) -> list[Slot]:
        """Those that have no room for it, the ones in shadow among them."""
        return [slot for slot in self.slots if not slot.fits(demanded, now_us)]

    def short_of(
        self, states: Sequence[LimitState], demanded: Usage
    ) -> list[tuple[Slot, LimitState]]:
        """
        The same from where they stand, with their states.

        A unit begun counts as used, so what is left there is what would fit.
        """
        short = []
        tokens, requests = demanded.tokens, demanded.requests
        for slot, state in zip(self.slots, states, strict=True):
            if slot.meter is None:
                units = 1
            else:
                units = tokens if slot.is_of_tokens else requests
            if units and units > state.capacity - state.used:
                short.append((slot, state))
        return short


def is_enforced(refusing: list[Slot]) -> bool:
    """Whether any of these is more than a limit in shadow."""
    return any(not slot.is_shadow for slot in refusing)
