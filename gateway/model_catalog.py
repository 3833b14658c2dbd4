"""
Which models a caller sees: the plan's own names, the upstream's list, configuration.

The upstream is asked at most once per time-to-live and key, and a list it can no longer
give is served on from memory: a model picker is no place for an outage to begin.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from gateway.auth import Authenticator, Principal
from gateway.settings import Settings
from gateway.upstream.client import Credentials
from gateway.upstream.listing import Model

ListModels: TypeAlias = Callable[[Credentials], Awaitable[tuple[Model, ...] | None]]

# With keys passed through, each may see other models; this many lists are kept.
MAX_LISTS: Final = 1000
# An upstream without a list is not asked again at every call.
RETRY_S: Final = 10.0


class ModelCatalog:
    """The models of each principal, cached."""

    def __init__(
        self,
        settings: Settings,
        *,
        authenticator: Authenticator,
        list_models: ListModels,
    ) -> None:
        self._ttl_s = settings.models_ttl_s
        self._configured = tuple(Model(name) for name in settings.models)
        self._authenticator = authenticator
        self._list_models = list_models
        self._lists: OrderedDict[str, tuple[float, tuple[Model, ...]]] = OrderedDict()
        self._lock = asyncio.Lock()

    async def visible_to(self, principal: Principal) -> list[Model]:
        """Every model this caller may use, in the order they are known."""
        named = [Model(p) for p in principal.plan.models if "*" not in p]
        known = {m.id: m for m in (*await self._upstream(principal), *self._configured)}
        for model in named:
            known.setdefault(model.id, model)
        return [model for model in known.values() if principal.may_use(model.id)]

    async def find(self, principal: Principal, model_id: str) -> Model | None:
        models = await self.visible_to(principal)
        return next((model for model in models if model.id == model_id), None)

    async def _upstream(self, principal: Principal) -> tuple[Model, ...]:
        credentials = self._authenticator.credentials(principal)
        whose = principal.key_id if credentials.is_callers_key else ""
        place = f"{credentials.base_url} {whose}"
        now_s = asyncio.get_running_loop().time()
        fresh_until_s, models = self._lists.get(place, (0.0, ()))
        if now_s < fresh_until_s:
            return models
        # One caller asks, the others wait for its answer instead of asking too.
        async with self._lock:
            fresh_until_s, models = self._lists.get(place, (0.0, ()))
            if now_s < fresh_until_s:
                return models
            listed = await self._list_models(credentials)
            ttl_s = self._ttl_s if listed is not None else RETRY_S
            models = listed if listed is not None else models
            self._remember(place, now_s + ttl_s, models)
            return models

    def _remember(
        self, place: str, fresh_until_s: float, models: tuple[Model, ...]
    ) -> None:
        self._lists[place] = (fresh_until_s, models)
        self._lists.move_to_end(place)
        if len(self._lists) > MAX_LISTS:
            self._lists.popitem(last=False)
