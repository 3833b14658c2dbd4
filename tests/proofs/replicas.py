"""
Four replicas, one Redis, and more requests than any of its plans allows.

    python -m tests.proofs.replicas [--attempts 200000] [--cluster]

Each workspace meets another kind of limit. None may be exceeded by a single unit, and
in the end every one must have been charged exactly what its clients were delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import uvloop

from tests.proofs.check import Check, report, until
from tests.proofs.deployment import Deployment, deployed
from tests.proofs.lean_client import Answer
from tests.servers.cluster import redis_cluster
from tests.servers.redis_server import RedisServer

ATTEMPTS: Final = 200_000
WORKERS: Final = 64
STREAM_SHARE: Final = 0.02
# More than any answer uses, so that every settlement refunds.
MAX_TOKENS: Final = 60
# Rate windows are looked at from this many starts of the run.
STARTS: Final = 200
SETTLED_WITHIN_S: Final = 20.0

RATE: Final = 1200
RATE_BURST: Final = 300
TOKEN_RATE: Final = 60_000
TOKEN_BURST: Final = 6000
REQUEST_QUOTA: Final = 3000
TOKEN_QUOTA: Final = 60_000
PLACES: Final = 5
MANY: Final = 10**9

# Counts everything of everybody, and limits nobody.
COUNTED: Final = (
    f"{{of: requests, limit: {MANY}, per: month}},"
    f" {{of: tokens, limit: {MANY}, per: month}}"
)
RATE_LIMIT: Final = f"{{of: requests, limit: {RATE}, per: minute, burst: {RATE_BURST}}}"
TOKEN_RATE_LIMIT: Final = (
    f"{{of: tokens, limit: {TOKEN_RATE}, per: minute, burst: {TOKEN_BURST}}}"
)
BUDGET: Final = f"{{of: requests, limit: {REQUEST_QUOTA}, per: day}}"
TOKEN_BUDGET: Final = f"{{of: tokens, limit: {TOKEN_QUOTA}, per: day}}"


def _plan(name: str, rates: str = "", quotas: str = "", places: int = 1000) -> str:
    listed = f"{COUNTED}, {quotas}" if quotas else COUNTED
    return (
        f"plan: {name}\nconcurrency: {places}\nrates: [{rates}]\nquotas: [{listed}]\n"
    )


PLANS: Final = {
    "rated": _plan("rated", RATE_LIMIT),
    "token-rated": _plan("token-rated", TOKEN_RATE_LIMIT),
    "budgeted": _plan("budgeted", quotas=BUDGET),
    "token-budgeted": _plan("token-budgeted", quotas=TOKEN_BUDGET),
    "narrow": _plan("narrow", places=PLACES),
    "mixed": _plan(
        "mixed",
        f"{RATE_LIMIT}, {TOKEN_RATE_LIMIT}",
        f"{BUDGET}, {TOKEN_BUDGET}",
        PLACES,
    ),
}


class Load:
    """Attempts on all workspaces over all replicas, and what came of each."""

    def __init__(self, deployment: Deployment, attempts: int) -> None:
        self._deployment = deployment
        self._left = iter(range(attempts))
        self._random = random.Random(attempts)
        self.answers: dict[str, list[Answer]] = {plan: [] for plan in PLANS}

    async def run(self) -> None:
        await asyncio.gather(*(self._work() for _ in range(WORKERS)))

    async def _work(self) -> None:
        names = list(PLANS)
        for _ in self._left:
            plan = self._random.choice(names)
            is_stream = self._random.random() < STREAM_SHARE
            answer = await self._deployment.chat(
                plan, stream=is_stream, max_tokens=MAX_TOKENS, events=4
            )
            self.answers[plan].append(_slim(answer))

    def admitted(self, plan: str) -> list[Answer]:
        return [answer for answer in self.answers[plan] if answer.status == 200]


def _slim(answer: Answer) -> Answer:
    """Without what a hundred thousand rejections need not keep."""
    if answer.status == 200:
        return answer
    return Answer(answer.status, {}, answer.body, answer.asked_s, answer.took_s)


async def prove(deployment: Deployment, attempts: int) -> list[Check]:
    """Everything at once, then limit by limit."""
    load = Load(deployment, attempts)
    started_s = time.monotonic()
    await load.run()
    took_s = time.monotonic() - started_s
    for plan in PLANS:
        await until(
            partial(_is_idle, deployment, plan),
            f"{plan} to hold nothing",
            within_s=SETTLED_WITHIN_S,
        )
    admitted = sum(len(load.admitted(plan)) for plan in PLANS)
    figure = f"{attempts:,} in {took_s:.0f} s, {admitted:,} admitted"
    tally = await deployment.tally()
    return [
        Check("attempts", figure),
        Check(
            "unexpected answers",
            ", ".join(sorted(_unexpected(load))) or "0",
            not _unexpected(load),
        ),
        *_rates(load),
        *_quotas(load),
        *_places(tally),
        *[check for plan in PLANS for check in await _sums(deployment, load, plan)],
    ]


async def _is_idle(deployment: Deployment, plan: str) -> bool:
    limits = await deployment.limits(plan)
    return bool(limits["concurrency"]["used"] == 0)


def _unexpected(load: Load) -> set[str]:
    expected = {
        "rate_limit_exceeded",
        "insufficient_quota",
        "concurrency_limit_exceeded",
    }
    return {
        str(answer.status and answer.code)
        for plan in PLANS
        for answer in load.answers[plan]
        if answer.status != 200 and (not answer.status or answer.code not in expected)
    }


def _rates(load: Load) -> Iterator[Check]:
    for plan, is_tokens in (
        ("rated", False),
        ("token-rated", True),
        ("mixed", False),
        ("mixed", True),
    ):
        per_minute, burst = (
            (TOKEN_RATE, TOKEN_BURST) if is_tokens else (RATE, RATE_BURST)
        )
        admitted = load.admitted(plan)
        over, most = over_rate(admitted, per_minute / 60, burst, is_tokens=is_tokens)
        unit = "tokens" if is_tokens else "requests"
        yield _over(f"{plan}: {unit} a minute", over, f"up to {most:.0%} of the plan")


def over_rate(
    admitted: Sequence[Answer], per_s: float, burst: int, *, is_tokens: bool
) -> tuple[float, float]:
    """
    The most units above a bucket and its refill in any window, and the fullest one's
    share.

    An admission lies somewhere between its question and its answer, so a window counts
    only those that lie in it whole.
    """
    ended = sorted(admitted, key=lambda answer: answer.asked_s + answer.took_s)
    over, most = 0.0, 0.0
    first_s = min(answer.asked_s for answer in admitted)
    last_s = ended[-1].asked_s + ended[-1].took_s
    for number in range(STARTS):
        start_s = first_s + (last_s - first_s) * number / STARTS
        units = 0
        for answer in ended:
            if answer.asked_s < start_s:
                continue
            units += answer.tokens if is_tokens else 1
            length_s = answer.asked_s + answer.took_s - start_s
            allowed = burst + per_s * length_s
            over = max(over, units - allowed)
            most = max(most, units / allowed)
    return over, most


def _quotas(load: Load) -> Iterator[Check]:
    requests = len(load.admitted("budgeted"))
    yield _over(
        "budgeted: requests a day", requests - REQUEST_QUOTA, f"{requests:,} admitted"
    )
    for plan in ("token-budgeted", "mixed"):
        tokens = sum(answer.tokens for answer in load.admitted(plan))
        yield _over(
            f"{plan}: tokens a day", tokens - TOKEN_QUOTA, f"{tokens:,} delivered"
        )


def _places(tally: dict[str, Any]) -> Iterator[Check]:
    for plan in ("narrow", "mixed"):
        most = tally[f"ws-{plan}"]["most_running"]
        yield _over(f"{plan}: at the same time", most - PLACES, f"{most} at most")


def _over(name: str, over: float, figure: str) -> Check:
    excess = max(0.0, over)
    return Check(f"{name}, over-admitted", f"{excess:g} ({figure})", not excess)


async def _sums(deployment: Deployment, load: Load, plan: str) -> list[Check]:
    admitted = load.admitted(plan)
    tokens = sum(answer.tokens for answer in admitted)
    limits = await deployment.limits(plan)
    charged = limits["tokens-per-calendar-month"]["used"]
    counted = limits["requests-per-calendar-month"]["used"]
    return [
        Check(
            f"{plan}: tokens charged, delivered",
            f"{charged:,}, {tokens:,}",
            charged == tokens,
        ),
        Check(
            f"{plan}: requests charged, answered",
            f"{counted:,}, {len(admitted):,}",
            counted == len(admitted),
        ),
    ]


async def run(attempts: int, *, is_cluster: bool = False) -> int:
    async with AsyncExitStack() as held:
        if is_cluster:
            url = (await held.enter_async_context(redis_cluster())).url
        else:
            url = (await held.enter_async_context(RedisServer())).url
        deployment = await held.enter_async_context(
            # A client that takes both cores for itself makes everybody slow.
            deployed(PLANS, store_url=url, GATEWAY_STORE_TIMEOUT_S="2")
        )
        checks = await prove(deployment, attempts)
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=ATTEMPTS)
    parser.add_argument("--cluster", action="store_true", help="three masters")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(args.attempts, is_cluster=args.cluster))


if __name__ == "__main__":
    sys.exit(main())
