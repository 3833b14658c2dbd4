"""The models that can be asked: built-in or configured, fine-tuned, and the faults'."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gateway.simulator.errors import not_found
from gateway.simulator.faults import FAULT_MODEL_PREFIX, FAULT_MODELS


class Catalog:
    """Known model ids, in the order in which they are listed."""

    def __init__(self, models: Iterable[str]) -> None:
        # A dict for its order; an id is there or not.
        self._models: Final = dict.fromkeys([*models, *FAULT_MODELS])

    def add(self, model: str) -> None:
        self._models[model] = None

    def discard(self, model: str) -> None:
        self._models.pop(model, None)

    def require(self, model: str) -> None:
        if model not in self._models:
            raise not_found("model", f"The model {model[:200]!r} does not exist.")

    def listing(self) -> list[dict[str, str]]:
        return [
            {"id": model, "name": model.rpartition("/")[2], "owned_by": owner_of(model)}
            for model in self._models
        ]


def owner_of(model: str) -> str:
    owner, slash, _ = model.partition("/")
    return owner if slash and not model.startswith(FAULT_MODEL_PREFIX) else "llmtune"
