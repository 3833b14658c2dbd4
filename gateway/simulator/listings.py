"""What LLMTune says of itself: models, usage, health; and the simulator's counts."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.simulator.catalog import Catalog
from gateway.simulator.delivery import REDIRECT_TARGET
from gateway.simulator.replies import Reply, json_reply
from gateway.simulator.stats import StatsBoard


class Listing(msgspec.Struct, frozen=True):
    answer: Callable[[str], Reply]
    is_open: bool = False


class Listings:
    """The routes that only read."""

    def __init__(self, catalog: Catalog, board: StatsBoard) -> None:
        self._catalog = catalog
        self._board = board

    def by_path(self) -> dict[str, Listing]:
        return {
            "/api/agent/v1/models": Listing(self._agent_models),
            "/api/models/list": Listing(self._models),
            "/api/usage/summary": Listing(self._usage),
            "/api/health": Listing(self._health, is_open=True),
            "/simulator/stats": Listing(self._stats, is_open=True),
            # Exists to be counted: whoever gets here has followed a redirect.
            REDIRECT_TARGET: Listing(self._health, is_open=True),
        }

    def _agent_models(self, _: str) -> Reply:
        return json_reply({"object": "list", "data": self._catalog.listing()})

    def _models(self, _: str) -> Reply:
        listing = self._catalog.listing()
        return json_reply({"success": True, "data": listing, "count": len(listing)})

    def _usage(self, _: str) -> Reply:
        counts = self._board.counts
        asked = sum(
            count for path, count in counts.requests.items() if path.startswith("/v1/")
        )
        tokens = {
            "input": counts.prompt_tokens,
            "output": counts.completion_tokens,
            "total": counts.prompt_tokens + counts.completion_tokens,
        }
        return json_reply(
            {"success": True, "data": {"requests": asked, "tokens": tokens}}
        )

    def _health(self, _: str) -> Reply:
        return json_reply({"success": True, "status": "ok"})

    def _stats(self, _: str) -> Reply:
        return json_reply(self._board.counts.snapshot())
