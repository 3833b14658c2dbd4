"""How far a store's connections go, where whoever opens one may say otherwise."""

from __future__ import annotations

from typing import Final

# A tenth of a second's full load. A Redis that is so far behind answers nobody in time,
# and each waiting command holds a request's memory.
MAX_WAITING: Final = 10_000

# A peer that vanished without a word is noticed after this silence and the wait for one
# answer. At half, idle replicas ask twice as often for nothing; at double, what is
# announced may go unheard for as much longer.
PING_EVERY_S: Final = 2.0
