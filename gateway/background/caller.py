"""On whose account work runs whose caller has left."""

from __future__ import annotations

import msgspec

from gateway.auth import Authenticator, Principal


class Caller(msgspec.Struct, frozen=True):
    """On whose account it runs when nobody is there who has a key."""

    workspace: str
    plan: str
    models: tuple[str, ...] | None = None


def caller_of(principal: Principal) -> Caller:
    """What is kept of who asks; never a key."""
    return Caller(principal.workspace, principal.plan.plan, principal.models)


def principal_of(authenticator: Authenticator, caller: Caller) -> Principal | None:
    """Who it was; None where the plan is not known any more."""
    found = authenticator.vouched(caller.workspace, caller.plan)
    if found is None:
        return None
    return msgspec.structs.replace(found, models=caller.models)
