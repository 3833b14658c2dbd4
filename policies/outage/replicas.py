"""
How many replicas share the store: each says every other second that it lives.

What a share of a plan is divided by. The last count is kept while the store is away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from policies.key_names import REPLICAS
from policies.store.scripts import load_script
from policies.store.store import Store

INTERVAL_S: Final = 2.0
# Two words may be lost. At half, a replica of one slow moment is not counted and the
# others' shares are too large; at double, a replica that died shrinks them for longer.
TTL_S: Final = 6.0

_COUNT = load_script("count_replicas")


class Replicas:
    """
    The number of replicas, this one included.

    More are believed at once, fewer only after they were missed for a whole ttl: a
    store that lost its data has heard of nobody, and until all have said a word again
    each would take the whole plan for its share.
    """

    def __init__(
        self,
        store: Store,
        replica_id: str,
        *,
        clock_us: Callable[[], int],
        interval_s: float = INTERVAL_S,
        ttl_s: float = TTL_S,
    ) -> None:
        self._store = store
        self._replica_id = replica_id
        self._clock_us = clock_us
        self._ttl_s = ttl_s
        # What was heard within the last ttl, and since when without a gap.
        self._heard: deque[tuple[int, int]] = deque()
        self._heard_since_us: int | None = None
        self.interval_s = interval_s
        self.count = 1

    async def beat(self) -> None:
        """Say that this one lives, and hear how many do; or StoreUnavailable."""
        try:
            seen = await self._run(int(self._ttl_s * 1000))
        except BaseException:
            # Nor has anybody else been heard: the time to be missed in begins anew.
            self._heard.clear()
            self._heard_since_us = None
            raise
        self._believe(seen)

    async def leave(self) -> None:
        """Be counted no more."""
        await self._run(0)

    async def _run(self, ttl_ms: int) -> int:
        return int(
            await self._store.run(_COUNT, [REPLICAS], [self._replica_id, ttl_ms])
        )

    def _believe(self, seen: int) -> None:
        now_us = self._clock_us()
        ttl_us = int(self._ttl_s * 1_000_000)
        if self._heard_since_us is None:
            self._heard_since_us = now_us
        self._heard.append((now_us, seen))
        while self._heard[0][0] < now_us - ttl_us:
            self._heard.popleft()
        most = max(count for _, count in self._heard)
        has_heard_all = now_us - self._heard_since_us >= ttl_us
        self.count = most if has_heard_all else max(self.count, most)
