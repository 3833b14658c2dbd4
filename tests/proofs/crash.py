"""
A replica killed with streams open: its places are free within one lease.

    python -m tests.proofs.crash [--lease-ttl-s 30]

Four replicas share a Redis; one of them holds fifty streams of one workspace, takes
every place of it, and gets `kill -9`. The others must not notice. Each of the dead
one's leases must keep its place to its own end, and be charged what it last reported,
to the token.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from typing import Any, Final

import uvloop

from tests.proofs.abandoned import Abandoned, Look
from tests.proofs.check import Check, report, until
from tests.proofs.deployment import Deployment, deployed
from tests.proofs.lean_client import Answer
from tests.proofs.lean_upstream import EVENT_EVERY_S
from tests.proofs.redis_state import RedisState, ttl_check
from tests.proofs.sums import sum_checks
from tests.servers.redis_server import RedisServer

STREAMS: Final = 50
OTHER_STREAMS: Final = 10
LOOKS_PER_S: Final = 20
RESERVED: Final = 400
# What the dead one wrote last has long arrived, and no lease of it has ended.
READ_AFTER_S: Final = 0.2
# What a question that must be refused may take before the first lease ends.
ANSWERED_WITHIN_S: Final = 0.5
# A look at /v1/limits after the last lease's end.
SLACK_S: Final = 0.5
LIMITS: Final = (
    "quotas: [{of: requests, limit: 1000000000, per: month},"
    " {of: tokens, limit: 1000000000, per: month}]\n"
)
PLANS: Final = {
    "doomed": f"plan: doomed\nconcurrency: {STREAMS}\n{LIMITS}",
    "other": f"plan: other\nconcurrency: 1000\n{LIMITS}",
}


class Crash:
    """The dead replica's streams, the others', and the requests meanwhile."""

    def __init__(
        self, deployment: Deployment, state: RedisState, lease_ttl_s: float
    ) -> None:
        self._deployment = deployment
        self._state = state
        self._lease_ttl_s = lease_ttl_s
        self._victim, *self._others = deployment.gateways
        # So long that none of the victim's ends by itself, and some are left after it.
        self._events = round((lease_ttl_s + 5) / EVENT_EVERY_S)
        self._looks: list[Look] = []
        self._asked: dict[str, list[Answer]] = {plan: [] for plan in PLANS}

    async def prove(self) -> list[Check]:
        begun_us = now_us()
        doomed = [self._doomed_stream() for _ in range(STREAMS)]
        others = [self._other_stream(number) for number in range(OTHER_STREAMS)]
        await self._until_taken(STREAMS)
        # Every lease has been renewed, and so has told of its tokens, once.
        await asyncio.sleep(self._lease_ttl_s / 3 + 1)
        sent = (await self._deployment.tally())["ws-doomed"]["events"]
        killed_us = now_us()
        await self._kill()
        abandoned = Abandoned(
            await self._state.footprint("ws-doomed"),
            ttl_us=round(self._lease_ttl_s * 1e6),
            events=self._events,
        )
        await self._look_until(abandoned)
        self._asked["other"] += await asyncio.gather(*others)
        broken = await asyncio.gather(*doomed)
        return [
            self._broken(broken),
            abandoned.held_check(STREAMS),
            abandoned.progress_check(begun_us, killed_us, sent / STREAMS),
            *self._freed(abandoned, killed_us),
            *await self._undisturbed(),
            *await self._charged(abandoned),
            await ttl_check(self._state),
        ]

    def _doomed_stream(self) -> asyncio.Future[Answer]:
        return asyncio.ensure_future(
            self._deployment.chat(
                "doomed",
                url=self._victim.url,
                stream=True,
                max_tokens=RESERVED,
                events=self._events,
            )
        )

    def _other_stream(self, number: int) -> asyncio.Future[Answer]:
        url = self._others[number % len(self._others)].url
        return asyncio.ensure_future(
            self._deployment.chat("other", url=url, stream=True, events=self._events)
        )

    async def _kill(self) -> None:
        self._victim.kill()
        await self._victim.process.wait()
        await asyncio.sleep(READ_AFTER_S)

    async def _limits(self) -> dict[str, Any]:
        return await self._deployment.limits("doomed", self._others[0].url)

    async def _until_taken(self, places: int) -> None:
        async def is_taken() -> bool:
            return bool((await self._limits())["concurrency"]["used"] == places)

        within_s = self._lease_ttl_s + 10
        await until(is_taken, f"{places} places to be taken", within_s=within_s)

    async def _look_until(self, abandoned: Abandoned) -> None:
        """
        Look at the places, and ask for both workspaces, until every lease has ended.

        The one whose places are taken asks only while it has to be refused, so that
        nothing else is charged to it.
        """
        until_us = abandoned.last_end_us + round(SLACK_S * 1e6)
        refused_until_us = abandoned.first_end_us - round(ANSWERED_WITHIN_S * 1e6)
        while (before_us := now_us()) < until_us:
            limits = await self._limits()
            used = limits["concurrency"]["used"]
            self._looks.append(Look(before_us, used, now_us()))
            await self._ask("other")
            if now_us() < refused_until_us:
                await self._ask("doomed")
            await asyncio.sleep(1 / LOOKS_PER_S)

    async def _ask(self, plan: str) -> Answer:
        answer = await self._deployment.chat(plan)
        self._asked[plan].append(answer)
        return answer

    def _broken(self, broken: list[Answer]) -> Check:
        cut = sum(answer.status == 0 for answer in broken)
        return Check("clients that saw it break", str(cut), cut == STREAMS)

    def _freed(self, abandoned: Abandoned, killed_us: int) -> list[Check]:
        asked = self._asked["doomed"]
        refused = sum(
            answer.status == 429 and answer.code == "concurrency_limit_exceeded"
            for answer in asked
        )
        free_us = [look.before_us for look in self._looks if look.used == 0]
        free_s = (free_us[0] - killed_us) / 1e6 if free_us else float("inf")
        return [
            abandoned.looks_check(self._looks),
            Check(
                "all its places free",
                f"{free_s:.1f} s after the kill, of a lease of {self._lease_ttl_s:g} s",
                free_s <= self._lease_ttl_s + SLACK_S,
            ),
            Check(
                "refused while they were taken",
                f"{refused} of {len(asked)}",
                refused == len(asked) > 0,
            ),
        ]

    async def _undisturbed(self) -> list[Check]:
        answers = self._asked["other"]
        served = sum(answer.status == 200 for answer in answers)
        streams = answers[-OTHER_STREAMS:]
        whole = sum(answer.body.endswith(b"data: [DONE]\n\n") for answer in streams)
        sums = await sum_checks(
            self._deployment,
            "other",
            await self._deployment.tally(),
            requests=served,
            tokens=sum(answer.tokens for answer in answers),
        )
        return [
            Check(
                "others' requests answered",
                f"{served} of {len(answers)}",
                served == len(answers) > OTHER_STREAMS,
            ),
            Check("others' streams whole", f"{whole}", whole == OTHER_STREAMS),
            *sums,
        ]

    async def _charged(self, abandoned: Abandoned) -> list[Check]:
        """As reported by its limits, and as written down by the next that asks."""
        before = await self._limits()
        answer = await self._ask("doomed")
        await self._until_taken(0)
        after = await self._limits()
        kept = await self._state.footprint("ws-doomed")
        served = int(answer.status == 200)
        return [
            abandoned.charged_check("charged when they ended", before),
            Check("the next request", str(answer.status), bool(served)),
            abandoned.charged_check(
                "charged after it", after, requests=served, tokens=answer.tokens
            ),
            abandoned.kept_check(kept),
        ]


def now_us() -> int:
    """By the clock of this machine, which is that of Redis too."""
    return time.time_ns() // 1000


async def run(lease_ttl_s: float) -> int:
    async with (
        RedisServer() as server,
        deployed(
            PLANS,
            store_url=server.url,
            GATEWAY_LEASE_TTL_S=f"{lease_ttl_s:g}",
            # A slow machine is no outage, in which a share would decide.
            GATEWAY_STORE_TIMEOUT_S="2",
        ) as deployment,
    ):
        state = RedisState.of(server)
        checks = await Crash(deployment, state, lease_ttl_s).prove()
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lease-ttl-s", type=float, default=30.0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(parser.parse_args().lease_ttl_s))


if __name__ == "__main__":
    sys.exit(main())
