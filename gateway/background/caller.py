"""On whose account work runs whose caller has left."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from gateway.auth import Authenticator, Principal
from policies.ledger import KeyScope


class Caller(msgspec.Struct, frozen=True):
    """On whose account it runs when nobody is there who has a key."""

    workspace: str
    plan: str
    models: tuple[str, ...] | None = None
    # Its key's own limits, as they were when it asked.
    key: KeyScope | None = None


def caller_of(principal: Principal) -> Caller:
    """What is kept of who asks; never a key."""
    return Caller(
        principal.workspace,
        principal.plan.plan,
        principal.models,
        principal.key_scope,
    )


def principal_of(authenticator: Authenticator, caller: Caller) -> Principal | None:
    """Who it was; None where the plan is not known any more."""
    found = authenticator.vouched(caller.workspace, caller.plan)
    if found is None:
        return None
    key = caller.key and _known(caller.key)
    return msgspec.structs.replace(found, models=caller.models, key_scope=key)


# As for plans: ledgers know limits by identity, and a record is read anew each time.
@lru_cache(maxsize=4096)
def _known(key: KeyScope) -> KeyScope:
    return key
