"""
How many attempts one receiver has under way in this process: one that does not answer
must not hold up the others. No I/O, and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

# A sixteenth of a process's: so many receivers have to be dead at once before others
# wait. One that answers within a tenth of a second still takes forty a second.
MAX_TOGETHER: Final = 4
# A receiver that answers at once is not asked in a busy loop.
LEAST_WAIT_MS: Final = 200


class Places:
    """Attempts under way, by receiver."""

    def __init__(self) -> None:
        # Since when, in the order in which they began.
        self._began_ms: dict[str, list[int]] = {}

    def wait_ms(self, receiver: str, now_ms: int) -> int:
        """
        How long it has no place, at a guess; 0 where it has one.

        As long as its slowest attempt has taken so far: what waits for a receiver that
        is dead is looked at seldom, and for a quick one soon.
        """
        began_ms = self._began_ms.get(receiver, ())
        if len(began_ms) < MAX_TOGETHER:
            return 0
        return max(LEAST_WAIT_MS, now_ms - began_ms[0])

    @contextmanager
    def taken(self, receiver: str, now_ms: int) -> Iterator[None]:
        """Hold a place for as long as an attempt takes."""
        began_ms = self._began_ms.setdefault(receiver, [])
        began_ms.append(now_ms)
        try:
            yield
        finally:
            began_ms.remove(now_ms)
            if not began_ms:
                del self._began_ms[receiver]
