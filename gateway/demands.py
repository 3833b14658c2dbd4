"""What is asked of the ledger for a principal: all its limits, or only some. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import msgspec

from gateway.auth import Principal
from policies.ledger import Demand, KeyScope, Usage
from policies.plans import KeyLimits, Plan


def asked(principal: Principal, reserve: Usage, lease_id: str) -> Demand:
    """A demand that every limit counts."""
    return Demand(
        workspace=principal.workspace,
        plan=principal.plan,
        lease_id=lease_id,
        reserve=reserve,
        key=principal.key_scope,
    )


def placeless(principal: Principal, usage: Usage, lease_id: str) -> Demand:
    """A demand that neither needs a place nor takes one, but where there is none."""
    if is_suspended(principal):
        return asked(principal, usage, lease_id)
    return _limited(principal, usage, lease_id, _without_places, _key_without_places)


def budgeted(principal: Principal, usage: Usage, lease_id: str) -> Demand:
    """A demand that budgets alone count."""
    return _limited(principal, usage, lease_id, _budgets_of, _key_budgets_of)


def _limited(
    principal: Principal,
    usage: Usage,
    lease_id: str,
    of_plan: Callable[[Plan], Plan],
    of_key: Callable[[KeyLimits], KeyLimits],
) -> Demand:
    """A demand without a place, which only some limits count."""
    key = principal.key_scope
    return Demand(
        workspace=principal.workspace,
        plan=of_plan(principal.plan),
        lease_id=lease_id,
        reserve=usage,
        key=key and KeyScope(key.id, of_key(key.limits)),
        takes_place=False,
    )


def is_suspended(principal: Principal) -> bool:
    """Whether its workspace or its key has no place at all, whatever it asks for."""
    key = principal.key_scope
    places = (principal.plan.concurrency, key and key.limits.concurrency)
    return any(each and each.limit == 0 and not each.shadow for each in places)


# Plans in use at such a service, and keys' limits. Ledgers know them by identity, and
# make anew what they keep for one that they have not seen.
@lru_cache(maxsize=1024)
def _budgets_of(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, concurrency=None, rates=())


@lru_cache(maxsize=1024)
def _without_places(plan: Plan) -> Plan:
    return msgspec.structs.replace(plan, concurrency=None)


@lru_cache(maxsize=4096)
def _key_budgets_of(limits: KeyLimits) -> KeyLimits:
    return msgspec.structs.replace(limits, concurrency=None, rates=())


@lru_cache(maxsize=4096)
def _key_without_places(limits: KeyLimits) -> KeyLimits:
    return msgspec.structs.replace(limits, concurrency=None)
