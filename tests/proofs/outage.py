"""
Redis taken away under load, and given back: four replicas, three ways to lose it.

    python -m tests.proofs.outage [--ways kill,freeze,failover] [--outage-s 20]

Nothing may hang or slow down, a plan may be exceeded by no more than the formula of
docs/store-failure.md, and in the end Redis must have every token that was delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import msgspec
import uvloop

from tests.proofs.check import Check, quantile, report, until
from tests.proofs.deployment import Deployment, deployed
from tests.proofs.lean_client import Answer
from tests.servers.redis_server import RedisServer
from tests.servers.sentinel import redis_sentinel

WAYS: Final = ("kill", "freeze", "failover")
REPLICAS: Final = 4
# What four replicas, their upstream and this client do on two cores with time to spare.
OPEN_PER_S: Final = 100
TIGHT_PER_S: Final = 40
QUIET_S: Final = 8.0
OUTAGE_S: Final = 20.0
SETTLED_WITHIN_S: Final = 20.0
P99_MAY_GROW_S: Final = 0.1

QUOTA: Final = 900
BURST: Final = 60
PER_MINUTE: Final = 120
PLANS: Final = {
    "open": "plan: open\nconcurrency: 4000\n"
    "quotas: [{of: requests, limit: 1000000000, per: month},"
    " {of: tokens, limit: 1000000000, per: month}]\n",
    "rated": f"plan: rated\nrates: [{{of: requests, limit: {PER_MINUTE},"
    f" per: minute, burst: {BURST}}}]\n",
    "budgeted": "plan: budgeted\n"
    f"quotas: [{{of: requests, limit: {QUOTA}, per: month}}]\n",
}


class Store(msgspec.Struct):
    """A Redis that can be taken away, and how."""

    url: str
    take: Callable[[], None]
    give: Callable[[], object]


@asynccontextmanager
async def losable(way: str) -> AsyncIterator[Store]:
    """A store for one of the ways to lose it."""
    if way == "failover":
        async with redis_sentinel() as sentinel:
            # Nobody gives it back: the sentinels put its replica in its place.
            master = sentinel.master
            yield Store(sentinel.url, master.kill, lambda: None)
        return
    # Every write on disk before its answer: what Redis said, it still knows.
    async with RedisServer(aof="always") as server:
        if way == "kill":
            yield Store(server.url, server.kill, server.restart)
        else:
            yield Store(server.url, server.freeze, server.thaw)


class Terms(msgspec.Struct, frozen=True):
    """How long, how hard, and how much slower an answer may be."""

    outage_s: float = OUTAGE_S
    quiet_s: float = QUIET_S
    # Of the pace two idle cores keep up with.
    pace: float = 1.0
    p99_may_grow_s: float = P99_MAY_GROW_S


class Load:
    """Requests at a steady pace, whatever becomes of them."""

    def __init__(self, deployment: Deployment, pace: float) -> None:
        self._deployment = deployment
        self._pace = pace
        self.answers: dict[str, list[Answer]] = {plan: [] for plan in PLANS}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, for_s: float) -> None:
        """Ask all workspaces for so long; streams among the requests."""
        started_s = time.monotonic()
        paces = {"open": OPEN_PER_S, "rated": TIGHT_PER_S, "budgeted": TIGHT_PER_S}
        asked = dict.fromkeys(paces, 0)
        while (passed_s := time.monotonic() - started_s) < for_s:
            for plan, per_s in paces.items():
                while asked[plan] < passed_s * per_s * self._pace:
                    asked[plan] += 1
                    self._ask(plan, is_stream=asked[plan] % 20 == 0)
            await asyncio.sleep(0.002)

    def _ask(self, plan: str, *, is_stream: bool) -> None:
        async def ask() -> None:
            self.answers[plan].append(
                await self._deployment.chat(plan, stream=is_stream, max_tokens=60)
            )

        task = asyncio.ensure_future(ask())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    @property
    def everything(self) -> list[Answer]:
        return [answer for answers in self.answers.values() for answer in answers]


async def prove(way: str, terms: Terms) -> list[Check]:
    """One way to lose Redis, from quiet over the outage to quiet."""
    async with (
        losable(way) as store,
        deployed(PLANS, store_url=store.url, replicas=REPLICAS) as deployment,
    ):
        load = Load(deployment, terms.pace)
        await load.run(terms.quiet_s)
        store.take()
        lost_s = time.monotonic()
        await load.run(terms.outage_s)
        given = store.give()
        if asyncio.iscoroutine(given):
            await given
        await load.run(terms.quiet_s)
        await load.finish()
        back_s = await until_settled(deployment)
        judge = Judge(load, lost_s, terms, f"{way}: ")
        settled = Check(f"{way}: settled after the load within", f"{back_s:.1f} s")
        sums = await judge.sums(deployment)
        return [*judge.promptness(), *judge.bounds(), *sums, settled]


async def until_settled(deployment: Deployment) -> float:
    """Wait until every replica is exact again and owes nothing; how long that took."""
    return sum(
        [
            await until(
                partial(_is_settled, deployment, gateway.url),
                f"{gateway.url} to owe nothing",
                within_s=SETTLED_WITHIN_S,
            )
            for gateway in deployment.gateways
        ]
    )


async def _is_settled(deployment: Deployment, url: str) -> bool:
    text = (await deployment.client.get(url, "/metrics")).body.decode()
    names = ("store_degraded", "settlement_queue_depth", "leases_held")
    return all(
        re.search(rf"^llmtune_gateway_{name} 0\.0$", text, re.MULTILINE)
        for name in names
    )


class Judge:
    """What was promised, held against what was seen."""

    def __init__(self, load: Load, lost_s: float, terms: Terms, title: str) -> None:
        self._load = load
        self._lost_s = lost_s
        self._back_s = lost_s + terms.outage_s
        self._p99_may_grow_s = terms.p99_may_grow_s
        self._title = title

    def promptness(self) -> list[Check]:
        """Nothing hung, nothing failed, and nothing became slow."""
        everything = self._load.everything
        hung = sum(answer.status == 0 for answer in everything)
        codes = {answer.code or "ok" for answer in everything if answer.status}
        unexpected = codes - {
            "ok",
            "rate_limit_exceeded",
            "insufficient_quota",
            # A share of a quota is spent, and the quota is not known to be.
            "store_unavailable",
        }
        alone = sum("x-llmtune-degraded" in answer.headers for answer in everything)
        normal_s = quantile(self._took(lambda a: a.asked_s < self._lost_s), 0.99)
        away_s = quantile(self._took(self._is_during), 0.99)
        return [
            Check(f"{self._title}requests", f"{len(everything):,}"),
            Check(f"{self._title}decided without it", f"{alone:,}", alone > 0),
            Check(f"{self._title}hung", str(hung), not hung),
            Check(f"{self._title}codes", ", ".join(sorted(codes)), not unexpected),
            Check(
                f"{self._title}p99 before and during",
                f"{normal_s * 1000:.0f} ms, {away_s * 1000:.0f} ms",
                away_s - normal_s < self._p99_may_grow_s,
            ),
        ]

    def bounds(self) -> list[Check]:
        """Over-admission, against the formula with N = n = 4."""
        away_s = self._back_s - self._lost_s
        per_s = PER_MINUTE / 60
        rated = [a for a in self._load.answers["rated"] if a.status == 200]
        first_s = min(answer.asked_s for answer in rated)
        last_s = max(answer.asked_s + answer.took_s for answer in rated)
        over_rate = max(0.0, len(rated) - BURST - per_s * (last_s - first_s))
        # The share of the bucket, and once more at the moment of return.
        rate_bound = REPLICAS * _part(BURST) + BURST
        rate_bound += round(away_s * (REPLICAS * _part(PER_MINUTE) / 60 - per_s))
        budgeted = sum(a.status == 200 for a in self._load.answers["budgeted"])
        over_quota = max(0, budgeted - QUOTA)
        # The shares, and what waits in journals when the first decide exactly again.
        quota_bound = 2 * REPLICAS * _part(QUOTA)
        return [
            self._bounded("rate exceeded by", over_rate, rate_bound),
            self._bounded("quota exceeded by", over_quota, quota_bound),
        ]

    async def sums(self, deployment: Deployment) -> list[Check]:
        """What was charged is what was delivered."""
        answers = self._load.answers["open"]
        served = sum(answer.status == 200 for answer in answers)
        tokens = sum(answer.tokens for answer in answers)
        limits = await deployment.limits("open")
        charged = limits["tokens-per-calendar-month"]["used"]
        counted = limits["requests-per-calendar-month"]["used"]
        return [
            self._equal("tokens charged and delivered", charged, tokens),
            self._equal("requests charged and answered", counted, served),
            self._equal("places taken", limits["concurrency"]["used"], 0),
        ]

    def _took(self, is_meant: Callable[[Answer], bool]) -> list[float]:
        # Streams take what their events take.
        return [a.took_s for a in _whole(self._load.everything) if is_meant(a)]

    def _is_during(self, answer: Answer) -> bool:
        return self._lost_s <= answer.asked_s < self._back_s

    def _bounded(self, name: str, figure: float, bound: float) -> Check:
        text = f"{figure:.0f}, bound {bound:.0f}"
        return Check(self._title + name, text, figure <= bound)

    def _equal(self, name: str, figure: int, expected: int) -> Check:
        text = f"{figure:,}, {expected:,}"
        return Check(self._title + name, text, figure == expected)


def _part(units: int) -> int:
    return max(1, units // REPLICAS)


def _whole(answers: Iterable[Answer]) -> list[Answer]:
    is_stream = "text/event-stream"
    return [a for a in answers if is_stream not in a.headers.get("content-type", "")]


async def run(ways: list[str], terms: Terms) -> int:
    checks: list[Check] = []
    for way in ways:
        checks += await prove(way, terms)
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--outage-s", type=float, default=OUTAGE_S)
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(args.ways.split(","), Terms(outage_s=args.outage_s)))


if __name__ == "__main__":
    sys.exit(main())
