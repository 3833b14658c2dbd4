"""
Which models a caller sees: the plan's own names, the upstream's list, configuration,
and what its workspace has tuned, but no other's.

The upstream is asked at most once per time-to-live and key, and a list it can no longer
give is served on from memory: a model picker is no place for an outage to begin.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec

from gateway.auth import Authenticator, Principal
from gateway.errors import UpstreamRefused
from gateway.fine_tuning.owners import Owners
from gateway.settings import Settings
from gateway.upstream.client import Credentials
from gateway.upstream.listing import Model
from policies.jobs.port import JobsUnavailable

ListModels: TypeAlias = Callable[[Credentials], Awaitable[tuple[Model, ...] | None]]

# With keys passed through, each may see other models; so many lists are kept, of at
# most 2,000 models each.
MAX_LISTS: Final = 200
# An upstream without a list is not asked again at every call.
RETRY_S: Final = 10.0


class _Listed(msgspec.Struct):
    """One list, and the lock under which one caller asks while others wait for it."""

    models: tuple[Model, ...] = ()
    fresh_until_s: float = 0.0
    asking: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)


class ModelCatalog:
    """The models of each principal, cached."""

    def __init__(
        self,
        settings: Settings,
        *,
        authenticator: Authenticator,
        list_models: ListModels,
        owners: Owners | None = None,
    ) -> None:
        self._ttl_s = settings.models_ttl_s
        self._configured = tuple(Model(name) for name in settings.models)
        self._authenticator = authenticator
        self._list_models = list_models
        self._owners = owners
        self._lists: OrderedDict[tuple[str, ...], _Listed] = OrderedDict()

    async def visible_to(self, principal: Principal) -> list[Model]:
        """
        Every model this caller may use, in the order they are known.

        Raises UpstreamRefused where the caller's own key is refused upstream.
        """
        named = [Model(p) for p in principal.plan.models if "*" not in p]
        known = {m.id: m for m in (*await self._upstream(principal), *self._configured)}
        for model in named:
            known.setdefault(model.id, model)
        if self._owners is None:
            return [each for each in known.values() if principal.may_use(each.id)]
        workspace = principal.workspace
        # The upstream's list may not show yet what was tuned a moment ago.
        with suppress(JobsUnavailable):
            await self._owners.refresh()
            known |= {m.id: m for m in await self._owners.models_of(workspace)}
        return [
            model
            for model in known.values()
            if principal.may_use(model.id)
            and not self._owners.is_anothers(workspace, model.id)
        ]

    async def find(self, principal: Principal, model_id: str) -> Model | None:
        models = await self.visible_to(principal)
        return next((model for model in models if model.id == model_id), None)

    async def _upstream(self, principal: Principal) -> tuple[Model, ...]:
        credentials = self._authenticator.credentials(principal)
        # With our key all callers see one list; with their own, each its own.
        whose = (principal.workspace, principal.key_id)
        place = (credentials.base_url, *(whose if credentials.is_callers_key else ()))
        listed = self._lists.setdefault(place, _Listed())
        self._lists.move_to_end(place)
        if len(self._lists) > MAX_LISTS:
            self._lists.popitem(last=False)
        if not self._is_fresh(listed):
            async with listed.asking:
                if not self._is_fresh(listed):
                    await self._ask(principal, credentials, listed)
        return listed.models

    async def _ask(
        self, principal: Principal, credentials: Credentials, listed: _Listed
    ) -> None:
        try:
            models = await self._list_models(credentials)
        except UpstreamRefused as error:
            self._authenticator.hear_refusal(principal, error)
            raise
        ttl_s = RETRY_S if models is None else self._ttl_s
        listed.fresh_until_s = asyncio.get_running_loop().time() + ttl_s
        # A list that was had is kept when the next one is not to be had.
        if models is not None:
            listed.models = models

    def _is_fresh(self, listed: _Listed) -> bool:
        return asyncio.get_running_loop().time() < listed.fresh_until_s
