"""Every slow proof in a size a test run can afford; `make prove` runs them whole."""

from __future__ import annotations

import pytest

from tests.proofs import crash, million, outage, replays, replicas

# Two cores that other tests share are slow at times, and that is no finding here.
SMALL = outage.Terms(outage_s=3.0, quiet_s=2.0, pace=0.4, p99_may_grow_s=2.0)


async def test_four_replicas_over_admit_nothing() -> None:
    """Every kind of limit is filled, and all sums are right to the token."""
    assert await replicas.run(1500) == 0


async def test_killed_replicas_places_are_free_within_a_lease() -> None:
    """Nobody else notices."""
    assert await crash.run(3.0) == 0


@pytest.mark.parametrize("way", ["kill", "freeze"])
async def test_redis_goes_away_under_load_and_comes_back(way: str) -> None:
    """Nothing hangs, the bound holds, and Redis ends with every token."""
    assert await outage.run([way], SMALL) == 0


async def test_workspaces_cost_little_and_leave_nothing() -> None:
    """Every key has a ttl, and admission does not slow down with their number."""
    # How much slower is for a quiet machine to say.
    assert await million.run(3000, until_gone=False, may_grow=10.0) == 0


@pytest.mark.timeout(150)
async def test_a_key_is_one_generation_over_replicas_that_die() -> None:
    """A crowd, clients cut off, a replica and a Redis killed, and memory."""
    small = replays.Terms(askers=100, recorded=10, recorded_bytes=256 * 1024)
    assert await replays.run(small) == 0
