"""What a proof has found: a figure, whether it is as promised, and the last line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

# How often another process is asked how it stands.
LOOK_EVERY_S = 0.05


class Check(msgspec.Struct, frozen=True):
    """One figure and whether it is as it should be."""

    name: str
    figure: str
    is_good: bool = True


def report(checks: Sequence[Check]) -> int:
    """Print them all; the exit code."""
    for check in checks:
        print(f"{'ok  ' if check.is_good else 'FAIL'} {check.name}: {check.figure}")
    failed = sum(not check.is_good for check in checks)
    print(f"{len(checks) - failed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


def quantile(figures: Sequence[float], part: float) -> float:
    """The figure below which this part of them lies."""
    return sorted(figures)[min(len(figures) - 1, int(len(figures) * part))]


async def until(
    holds: Callable[[], Awaitable[bool]], what: str, *, within_s: float
) -> float:
    """Wait until something holds in another process; how long that took."""
    started_s = time.monotonic()
    while not await holds():
        if time.monotonic() - started_s > within_s:
            raise TimeoutError(f"waited {within_s:g} s for {what}")
        await asyncio.sleep(LOOK_EVERY_S)
    return time.monotonic() - started_s
