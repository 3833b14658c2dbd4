"""The leases this replica has admitted and not yet settled, and who else knows them."""

from __future__ import annotations

from collections.abc import Iterator

from policies.ledger import NOTHING, Demand, Usage


class RunningLease:
    """A lease of this replica."""

    __slots__ = (
        "admitted_us",
        "base",
        "charged",
        "confirmed_us",
        "demand",
        "episode",
        "known_us",
        "recovery",
        "seen_us",
        "share_reserve",
    )

    def __init__(self, demand: Demand, admitted_us: int) -> None:
        self.demand = demand
        self.admitted_us = admitted_us
        # When its owner last admitted or renewed it.
        self.seen_us = admitted_us
        # Since when the store has surely held it; None if that was never said.
        self.known_us: int | None = None
        # When the store last said that it holds it; if it never did, when it may first
        # have heard of it; None if it cannot have.
        self.confirmed_us: int | None = None
        # After which outage the store was told of this lease last.
        self.recovery = 0
        # In which episode of local decisions the share took it in, and at what charge.
        self.episode = 0
        self.share_reserve = demand.reserve
        # What of it that share starts with already, so that it does not count twice.
        self.base = NOTHING
        # What the store stood at for it, and since when: its last two states.
        self.charged: tuple[tuple[int, Usage], ...] = ()

    def confirm(self, now_us: int) -> None:
        """The store holds it."""
        if self.known_us is None:
            self.known_us = now_us
        self.confirmed_us = now_us

    def note_progress(self, tokens: int, now_us: int) -> None:
        """The store was told of so many, and charged what exceeds the reservation."""
        stands_at = self.charged[-1][1] if self.charged else self.demand.reserve
        if tokens > stands_at.tokens:
            charged = Usage(self.demand.reserve.requests, tokens)
            self.charged = (*self.charged[-1:], (now_us, charged))

    def counted_at(self, instant_us: int) -> Usage:
        """What the store's figures of that instant hold for this lease."""
        if self.known_us is None or self.known_us > instant_us:
            return NOTHING
        for since_us, charged in reversed(self.charged):
            if since_us <= instant_us:
                return charged
        return self.demand.reserve

    @property
    def is_known(self) -> bool:
        return self.known_us is not None

    def age_ms(self, now_us: int) -> int:
        return max(0, now_us - self.admitted_us) // 1000

    def on_share(self, actual: Usage) -> Usage:
        """The usage by which the share's charge becomes right; see `LocalShare`."""
        return Usage(
            max(0, actual.requests - self.base.requests),
            max(0, actual.tokens - self.base.tokens),
        )


class RunningLeases:
    """Leases by workspace and id."""

    def __init__(self) -> None:
        self._by_workspace: dict[str, dict[str, RunningLease]] = {}

    def __iter__(self) -> Iterator[RunningLease]:
        for leases in self._by_workspace.values():
            yield from leases.values()

    def __len__(self) -> int:
        return sum(map(len, self._by_workspace.values()))

    def add(self, lease: RunningLease) -> None:
        demand = lease.demand
        self._by_workspace.setdefault(demand.workspace, {})[demand.lease_id] = lease

    def find(self, workspace: str, lease_id: str) -> RunningLease | None:
        leases = self._by_workspace.get(workspace)
        return None if leases is None else leases.get(lease_id)

    def pop(self, workspace: str, lease_id: str) -> RunningLease | None:
        leases = self._by_workspace.get(workspace)
        if leases is None:
            return None
        lease = leases.pop(lease_id, None)
        if not leases:
            del self._by_workspace[workspace]
        return lease

    def sweep(self, unseen_since_us: int) -> None:
        """Forget those whose owner did neither renew nor settle them since then."""
        for lease in [each for each in self if each.seen_us < unseen_since_us]:
            self.pop(lease.demand.workspace, lease.demand.lease_id)

    def of(self, workspace: str) -> list[RunningLease]:
        return list(self._by_workspace.get(workspace, {}).values())
