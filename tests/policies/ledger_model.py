"""
A ledger too simple to be wrong, for one workspace.

It keeps lists of what was charged and fractions of what refilled, and works every
answer out anew. Time is its own and moves from one abandonment to the next.
"""

from __future__ import annotations

from datetime import UTC, datetime
from fractions import Fraction

from policies.ledger import Demand, KeyScope, Usage
from policies.plans import Concurrency, Limit, Plan, Rate

HOUR_US = 3_600_000_000

# A limit of the workspace ("") or of a key of it.
Scoped = tuple[str, Limit]
Account = tuple[str, ...]


class ModelLease:
    """A lease, with everything that was charged for it."""

    def __init__(self, reserve: Usage, scopes: list[str]) -> None:
        self.reserve = reserve
        self.charged = reserve
        self.scopes = scopes
        self.end_us = 0
        self.progress = 0
        self.accounts: list[Account] = []
        self.refused: list[Account] = []


class Model:
    """What a workspace has used, counted the slow way."""

    def __init__(self, ttl_ms: int, now_us: int) -> None:
        self.ttl_us = ttl_ms * 1000
        self.now_us = now_us
        self.rates: dict[Account, Fraction] = {}
        self.rated_by: dict[Account, Rate] = {}
        self.quotas: dict[Account, int] = {}
        self.leases: dict[str, ModelLease] = {}
        self.abandoned: dict[str, ModelLease] = {}
        self.barred_until_us: dict[str, int] = {}

    def advance(self, us: int) -> None:
        # Abandonment happens at its own instant, so time moves from one to the next.
        end_us = self.now_us + us
        while due := [k for k, v in self.leases.items() if v.end_us <= end_us]:
            first = min(due, key=lambda each: (self.leases[each].end_us, each))
            self._move_to(max(self.now_us, self.leases[first].end_us))
            lease = self.abandoned[first] = self.leases.pop(first)
            tokens = lease.progress or lease.reserve.tokens
            self._correct(lease, Usage(lease.reserve.requests, tokens))
        self._move_to(end_us)
        kept = {k: v for k, v in self.abandoned.items() if v.end_us + HOUR_US > end_us}
        self.abandoned = kept

    def _move_to(self, now_us: int) -> None:
        for account, missing in self.rates.items():
            rate = self.rated_by[account]
            passed_us = now_us - self.now_us
            refill = Fraction(rate.limit * passed_us, rate.period_s * 1_000_000)
            self.rates[account] = max(Fraction(0), missing - refill)
        self.now_us = now_us

    def is_barred(self, lease_id: str) -> bool:
        until_us = self.barred_until_us.get(lease_id, 0)
        return lease_id in self.abandoned or until_us > self.now_us

    def refusing(self, demand: Demand) -> list[Scoped]:
        """The limits without room, shadow or not."""
        limits = limits_of(demand.plan, demand.key)
        return [each for each in limits if not self.has_room(each, demand.reserve)]

    def admit(self, demand: Demand) -> bool:
        """Must not be called with an id that is barred."""
        self.follow(demand)
        if demand.lease_id not in self.leases:
            refusing = self.refusing(demand)
            if not all(limit.shadow for _, limit in refusing):
                return False
            self._hold(demand, refusing)
        self.extend(demand.lease_id)
        return True

    def adopt(self, demand: Demand) -> bool:
        self.follow(demand)
        lease_id = demand.lease_id
        if lease_id in self.abandoned:
            self.leases[lease_id] = self.abandoned.pop(lease_id)
        elif lease_id not in self.leases:
            if self.is_barred(lease_id):
                return False
            self._hold(demand, [])
        self.extend(lease_id)
        return True

    def _hold(self, demand: Demand, refusing: list[Scoped]) -> None:
        scopes = ["", demand.key.id] if demand.key else [""]
        if not demand.takes_place:
            # Of them only its places are counted.
            scopes = []
        lease = ModelLease(demand.reserve, scopes)
        for each in limits_of(demand.plan, demand.key):
            account = self.account_of(each)
            if each in refusing:
                lease.refused.append(plain(account))
            elif not isinstance(each[1], Concurrency):
                lease.accounts.append(account)
        self._change(lease, demand.reserve, Usage(0, 0))
        self.leases[demand.lease_id] = lease

    def shadowed(self, demand: Demand) -> list[Limit]:
        """What the demand's own limits in shadow had refused at its admission."""
        refused = self.leases[demand.lease_id].refused
        return [
            each[1]
            for each in limits_of(demand.plan, demand.key)
            if each[1].shadow and plain(self.account_of(each)) in refused
        ]

    def extend(self, lease_id: str) -> None:
        self.leases[lease_id].end_us = self.now_us + self.ttl_us

    def renew(self, lease_id: str, tokens: int) -> bool:
        lease = self.leases.get(lease_id)
        if lease is None:
            return False
        lease.progress = max(lease.progress, tokens)
        if tokens > lease.charged.tokens:
            self._correct(lease, Usage(lease.charged.requests, tokens))
        self.extend(lease_id)
        return True

    def settle(self, lease_id: str, actual: Usage) -> bool:
        held = self.leases.pop(lease_id, None)
        lease = held or self.abandoned.pop(lease_id, None)
        if lease is not None:
            self._correct(lease, actual)
        until_us = self.now_us + self.ttl_us
        if self.barred_until_us.get(lease_id, 0) <= self.now_us:
            self.barred_until_us[lease_id] = until_us
        return lease is not None

    def _correct(self, lease: ModelLease, actual: Usage) -> None:
        self._change(lease, actual, lease.charged)
        lease.charged = actual

    def _change(self, lease: ModelLease, to: Usage, before: Usage) -> None:
        for account in lease.accounts:
            units = units_of(account[2], to) - units_of(account[2], before)
            if account[1] == "rate":
                missing = self.rates.get(account, Fraction(0)) + units
                self.rates[account] = max(Fraction(0), missing)
            else:
                used = self.quotas.get(account, 0) + units
                self.quotas[account] = max(0, used)

    def has_room(self, scoped: Scoped, reserve: Usage) -> bool:
        limit = scoped[1]
        if isinstance(limit, Concurrency):
            return self.held(scoped) < limit.limit
        units = units_of(limit.of, reserve)
        account = self.account_of(scoped)
        if isinstance(limit, Rate):
            missing = self.rates.get(account, Fraction(0))
            return units == 0 or missing + units <= limit.capacity
        return units == 0 or self.quotas.get(account, 0) + units <= limit.limit

    def held(self, scoped: Scoped) -> int:
        scope, limit = scoped
        held = [lease for lease in self.leases.values() if scope in lease.scopes]
        beyond = [lease for lease in held if (scope, "leases", "", "") in lease.refused]
        return len(held) - (len(beyond) if limit.shadow else 0)

    def used(self, scoped: Scoped) -> int:
        limit = scoped[1]
        if isinstance(limit, Concurrency):
            return self.held(scoped)
        account = self.account_of(scoped)
        if isinstance(limit, Rate):
            return -int(-self.rates.get(account, Fraction(0)) // 1)
        return self.quotas.get(account, 0)

    def follow(self, demand: Demand) -> None:
        """From a decision on, what it was decided by refills at its pace."""
        for each in limits_of(demand.plan, demand.key):
            if isinstance(each[1], Rate):
                self.rated_by[self.account_of(each)] = each[1]

    def account_of(self, scoped: Scoped) -> Account:
        """Where a limit is counted now: a quota's account ends with its window."""
        scope, limit = scoped
        if isinstance(limit, Concurrency):
            return (scope, "leases", "", "")
        if isinstance(limit, Rate):
            return (scope, "rate", limit.of, limit.per)
        now = datetime.fromtimestamp(self.now_us // 1_000_000, UTC)
        form = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}
        window = now.strftime(form[limit.per])
        return (scope, "quota", limit.of, limit.per, window)


def plain(account: Account) -> Account:
    """Without its window."""
    return account[:4]


def limits_of(plan: Plan, key: KeyScope | None) -> list[Scoped]:
    own = [(key.id, limit) for limit in key.limits.limits] if key else []
    return [*(("", limit) for limit in plan.limits), *own]


def units_of(of: str, usage: Usage) -> int:
    return usage.tokens if of == "tokens" else usage.requests
