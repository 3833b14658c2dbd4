"""
A million workspaces: what each costs Redis, whether admission stays as fast, and that
nothing is left of them once their limits are untouched again.

    python -m tests.proofs.million [--workspaces N]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import uvloop

from policies.ledger import Admitted, Demand, Usage
from policies.plans import Concurrency, Plan, Quota, Rate
from policies.redis_ledger import LEDGER_SCRIPTS, RedisLedger
from policies.store.store import open_store
from tests.proofs.check import Check, quantile, report
from tests.servers.redis_server import RedisServer

WORKSPACES: Final = 1_000_000
FEW: Final = 1000
# Latencies are of one call at a time, on workspaces taken at random.
SAMPLES: Final = 3000
IN_FLIGHT: Final = 256
HOLDING: Final = 20_000
# A place is barred for so long after its settlement; shorter, so that the end comes.
LEASE_TTL_MS: Final = 10_000
RATES: Final = (
    Rate(of="requests", limit=600, per="minute"),
    Rate(of="tokens", limit=60_000, per="minute"),
)
# Every kind of limit, as a paying customer has them.
FULL: Final = Plan(
    plan="full",
    rates=RATES,
    quotas=(
        Quota(of="requests", limit=10_000, per="day"),
        Quota(of="tokens", limit=10**8, per="month"),
    ),
    concurrency=Concurrency(limit=50),
)
# Without quotas, whose windows nobody waits for: all is idle again within a minute.
SHORT: Final = Plan(plan="short", rates=RATES, concurrency=Concurrency(limit=50))
# What noise between two medians may look like.
GROWTH: Final = 1.5
GONE_WITHIN_S: Final = 180.0


class Crowd:
    """Workspaces that each make a request now and then."""

    def __init__(self, ledger: RedisLedger, plan: Plan) -> None:
        self._ledger = ledger
        self._plan = plan
        self._numbers = iter(range(10**12))

    async def admit(self, workspace: int) -> str:
        """Take a lease; it must be granted, for nobody here is near a limit."""
        lease_id = f"{next(self._numbers):032x}"
        decision = await self._ledger.admit(
            Demand(
                workspace=_name(workspace),
                plan=self._plan,
                lease_id=lease_id,
                reserve=Usage(1, 600),
            )
        )
        assert isinstance(decision, Admitted)
        return lease_id

    async def settle(self, workspace: int, lease_id: str) -> None:
        await self._ledger.settle(_name(workspace), lease_id, Usage(1, 400))

    async def touch(self, workspace: int) -> None:
        await self.settle(workspace, await self.admit(workspace))

    async def touch_all(self, workspaces: Iterable[int]) -> None:
        await in_parallel(self.touch, workspaces)

    async def latencies_us(self, among: int) -> list[float]:
        """From an admission's call to its decision, one after the other."""
        chosen = random.Random(among)
        taken = []
        for _ in range(SAMPLES):
            workspace = chosen.randrange(among)
            started_s = time.perf_counter()
            lease_id = await self.admit(workspace)
            taken.append((time.perf_counter() - started_s) * 1e6)
            await self.settle(workspace, lease_id)
        return taken


def _name(workspace: int) -> str:
    return f"workspace-{workspace:07d}"


async def in_parallel(
    work: Callable[[int], Awaitable[object]], items: Iterable[int]
) -> None:
    """Do the work for every item, a bounded number at once."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


def quantiles(taken_us: list[float]) -> str:
    p99_us = quantile(taken_us, 0.99)
    return f"p50 {quantile(taken_us, 0.5):.0f} us, p99 {p99_us:.0f} us"


async def prove(
    server: RedisServer, workspaces: int, *, until_gone: bool, may_grow: float
) -> list[Check]:
    """Both halves: what they cost while they are there, and that they go."""
    store = open_store(
        server.unix_url, timeout_s=30, client_name="million", scripts=LEDGER_SCRIPTS
    )
    ledger = RedisLedger(store, LEASE_TTL_MS)
    try:
        checks = await prove_cost(server, Crowd(ledger, FULL), workspaces, may_grow)
        if until_gone:
            server.command("FLUSHALL")
            checks += await prove_end(server, Crowd(ledger, SHORT), workspaces)
    finally:
        await ledger.aclose()
    return checks


async def prove_cost(
    server: RedisServer, crowd: Crowd, workspaces: int, may_grow: float
) -> list[Check]:
    redis = server.connect()
    empty = int((await redis.info("memory"))["used_memory"])
    await crowd.touch_all(range(FEW))
    few_us = await crowd.latencies_us(FEW)
    started_s = time.perf_counter()
    await crowd.touch_all(range(FEW, workspaces))
    pace = (workspaces - FEW) / (time.perf_counter() - started_s)
    all_us = await crowd.latencies_us(workspaces)
    used = int((await redis.info("memory"))["used_memory"]) - empty
    holding = range(workspaces, workspaces + min(workspaces, HOLDING))
    await in_parallel(crowd.admit, holding)
    held = int((await redis.info("memory"))["used_memory"]) - empty - used
    keyspace = (await redis.info("keyspace"))["db0"]
    grown = quantile(all_us, 0.5) / quantile(few_us, 0.5)
    return [
        Check("admissions and settlements a second, one process", f"{pace:,.0f}"),
        Check(f"admission at {FEW:,} workspaces", quantiles(few_us)),
        Check(f"admission at {workspaces:,} workspaces", quantiles(all_us)),
        Check("the median has grown by", f"x {grown:.2f}", grown < may_grow),
        Check("Redis memory a workspace", f"{used / workspaces:,.0f} bytes"),
        Check("while a request runs", f"{held / len(holding):,.0f} bytes"),
        Check(
            "keys without a ttl",
            str(keyspace["keys"] - keyspace["expires"]),
            keyspace["keys"] == keyspace["expires"],
        ),
    ]


async def prove_end(server: RedisServer, crowd: Crowd, workspaces: int) -> list[Check]:
    redis = server.connect()
    await crowd.touch_all(range(workspaces))
    started_s = time.perf_counter()
    left = await redis.dbsize()
    while left and time.perf_counter() - started_s < GONE_WITHIN_S:
        await asyncio.sleep(1)
        left = await redis.dbsize()
    waited_s = time.perf_counter() - started_s
    return [Check("keys left after their ttls", f"{left} ({waited_s:.0f} s)", not left)]


async def run(
    workspaces: int, *, until_gone: bool = True, may_grow: float = GROWTH
) -> int:
    async with RedisServer() as server:
        checks = await prove(
            server, workspaces, until_gone=until_gone, may_grow=may_grow
        )
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspaces", type=int, default=WORKSPACES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(parser.parse_args().workspaces))


if __name__ == "__main__":
    sys.exit(main())
