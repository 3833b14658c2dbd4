"""
Four replicas, one Redis, and more requests than any of its plans allows.

    python -m tests.proofs.replicas [--admissions 200000] [--cluster]

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

ADMISSIONS: Final = 200_000
WORKERS: Final = 64
STREAM_SHARE: Final = 0.02
# More than any answer uses, so that every settlement refunds.
MAX_TOKENS: Final = 60
# Rate windows are looked at from this many starts of the run.
STARTS: Final = 100
SETTLED_WITHIN_S: Final = 20.0
# Far more than it takes: two cores admit some 600 a second.
SECONDS_AT_MOST: Final = 1200.0
# The run for which the limits below are; a longer one has more of what runs out.
SCALE_OF: Final = 20_000

RATE: Final = 3600
TOKEN_RATE: Final = 90_000
PLACES: Final = 5
MANY: Final = 10**9


class Limits:
    """The plans of a run, so that each of its limits binds in it."""

    def __init__(self, admissions: int) -> None:
        scale = admissions / SCALE_OF
        self.rate_burst = max(1, round(100 * scale))
        self.token_burst = max(MAX_TOKENS * 2, round(4000 * scale))
        self.budget = max(1, round(2000 * scale))
        self.token_budget = max(MAX_TOKENS * 2, round(50_000 * scale))

    def plans(self) -> dict[str, str]:
        rate = _limit("requests", RATE, "minute", self.rate_burst)
        token_rate = _limit("tokens", TOKEN_RATE, "minute", self.token_burst)
        budget = _limit("requests", self.budget, "day")
        token_budget = _limit("tokens", self.token_budget, "day")
        return {
            "open": _plan("open"),
            "rated": _plan("rated", [rate]),
            "token-rated": _plan("token-rated", [token_rate]),
            "budgeted": _plan("budgeted", quotas=[budget]),
            "token-budgeted": _plan("token-budgeted", quotas=[token_budget]),
            "narrow": _plan("narrow", places=PLACES),
            "mixed": _plan("mixed", [rate, token_rate], [budget, token_budget], PLACES),
        }


def _limit(of: str, limit: int, per: str, burst: int | None = None) -> str:
    more = f", burst: {burst}" if burst else ""
    return f"{{of: {of}, limit: {limit}, per: {per}{more}}}"


def _plan(
    name: str,
    rates: Sequence[str] = (),
    quotas: Sequence[str] = (),
    places: int = 1000,
) -> str:
    # Counts everything of everybody, and limits nobody.
    counted = [_limit("requests", MANY, "month"), _limit("tokens", MANY, "month")]
    return (
        f"plan: {name}\nconcurrency: {places}\nrates: [{', '.join(rates)}]\n"
        f"quotas: [{', '.join([*counted, *quotas])}]\n"
    )


class Load:
    """Requests on all workspaces over all replicas, and what came of each."""

    def __init__(self, deployment: Deployment, admissions: int) -> None:
        self._deployment = deployment
        self._left = admissions
        self._random = random.Random(admissions)
        self.limits = Limits(admissions)
        self.answers: dict[str, list[Answer]] = {p: [] for p in self.limits.plans()}

    async def run(self) -> None:
        """Until so many were admitted, or the time is up."""
        async with asyncio.timeout(SECONDS_AT_MOST):
            await asyncio.gather(*(self._work() for _ in range(WORKERS)))

    async def _work(self) -> None:
        names = list(self.answers)
        while self._left > 0:
            plan = self._random.choice(names)
            is_stream = self._random.random() < STREAM_SHARE
            answer = await self._deployment.chat(
                plan, stream=is_stream, max_tokens=MAX_TOKENS, events=4
            )
            self._left -= answer.status == 200
            self.answers[plan].append(_slim(answer))

    def admitted(self, plan: str) -> list[Answer]:
        return [answer for answer in self.answers[plan] if answer.status == 200]


def _slim(answer: Answer) -> Answer:
    """Without what a hundred thousand rejections need not keep."""
    if answer.status == 200:
        return answer
    return Answer(answer.status, {}, answer.body, answer.asked_s, answer.took_s)


async def prove(deployment: Deployment, admissions: int) -> list[Check]:
    """Everything at once, then limit by limit."""
    load = Load(deployment, admissions)
    started_s = time.monotonic()
    await load.run()
    took_s = time.monotonic() - started_s
    for plan in load.answers:
        await until(
            partial(_is_idle, deployment, plan),
            f"{plan} to hold nothing",
            within_s=SETTLED_WITHIN_S,
        )
    admitted = sum(len(load.admitted(plan)) for plan in load.answers)
    asked = sum(map(len, load.answers.values()))
    figure = f"{admitted:,} of {asked:,} requests in {took_s:.0f} s"
    tally = await deployment.tally()
    return [
        Check("admitted", figure),
        Check(
            "unexpected answers",
            ", ".join(sorted(_unexpected(load))) or "0",
            not _unexpected(load),
        ),
        *_rates(load),
        *_quotas(load),
        *_places(tally),
        *[
            check
            for plan in load.answers
            for check in await _sums(deployment, load, plan)
        ],
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
        for plan in load.answers
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
        per_minute, burst = RATE, load.limits.rate_burst
        if is_tokens:
            per_minute, burst = TOKEN_RATE, load.limits.token_burst
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
    spans = sorted(
        (a.asked_s + a.took_s, a.asked_s, a.tokens if is_tokens else 1)
        for a in admitted
    )
    over, most = 0.0, 0.0
    first_s = min(asked_s for _, asked_s, _ in spans)
    length_s = spans[-1][0] - first_s
    for number in range(STARTS):
        start_s = first_s + length_s * number / STARTS
        units = 0
        for end_s, asked_s, cost in spans:
            if asked_s >= start_s:
                units += cost
                allowed = burst + per_s * (end_s - start_s)
                over = max(over, units - allowed)
                most = max(most, units / allowed)
    return over, most


def _quotas(load: Load) -> Iterator[Check]:
    requests = len(load.admitted("budgeted"))
    yield _over(
        "budgeted: requests a day",
        requests - load.limits.budget,
        f"{requests:,} admitted",
    )
    for plan in ("token-budgeted", "mixed"):
        tokens = sum(answer.tokens for answer in load.admitted(plan))
        yield _over(
            f"{plan}: tokens a day",
            tokens - load.limits.token_budget,
            f"{tokens:,} delivered",
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


async def run(admissions: int, *, is_cluster: bool = False) -> int:
    plans = Limits(admissions).plans()
    async with AsyncExitStack() as held:
        if is_cluster:
            url = (await held.enter_async_context(redis_cluster())).url
        else:
            url = (await held.enter_async_context(RedisServer())).url
        deployment = await held.enter_async_context(
            # A client that takes both cores for itself makes everybody slow.
            deployed(plans, store_url=url, GATEWAY_STORE_TIMEOUT_S="2")
        )
        checks = await prove(deployment, admissions)
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--admissions", type=int, default=ADMISSIONS)
    parser.add_argument("--cluster", action="store_true", help="three masters")
    args = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(args.admissions, is_cluster=args.cluster))


if __name__ == "__main__":
    sys.exit(main())
