"""
A replica killed with streams open: its places are free within one lease.

    python -m tests.proofs.crash [--lease-ttl-s 30]

Four replicas share a Redis; one of them holds fifty streams of one workspace, takes
every place of it, and gets `kill -9`. The others must not notice, and once the dead
one's leases have ended the workspace must be charged what they had reported.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Final

import uvloop

from tests.proofs.check import Check, report, until
from tests.proofs.deployment import Deployment, deployed
from tests.proofs.lean_client import Answer
from tests.proofs.lean_upstream import EVENT_EVERY_S
from tests.servers.redis_server import RedisServer

STREAMS: Final = 50
OTHER_STREAMS: Final = 10
OTHERS_PER_S: Final = 20
RESERVED: Final = 400
# A poll of /v1/limits, and what an answer takes.
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

    def __init__(self, deployment: Deployment, lease_ttl_s: float) -> None:
        self._deployment = deployment
        self._lease_ttl_s = lease_ttl_s
        self._victim, *self._others = deployment.gateways
        # So long that none of the victim's ends by itself.
        self._events = round((lease_ttl_s + 6) / EVENT_EVERY_S)

    async def prove(self) -> list[Check]:
        doomed = [self._doomed_stream() for _ in range(STREAMS)]
        others = [self._other_stream(number) for number in range(OTHER_STREAMS)]
        await self._until_taken(STREAMS)
        # Every lease has been renewed, and so has told of its tokens, once.
        await asyncio.sleep(self._lease_ttl_s / 3 + 1)
        self._victim.kill()
        free_s = asyncio.ensure_future(self._until_taken(0))
        refused, answers = await self._ask_meanwhile(free_s)
        ended = await asyncio.gather(*others)
        broken = await asyncio.gather(*doomed)
        return [
            self._freed(await free_s, refused),
            *self._undisturbed(answers, ended),
            *await self._charged(broken),
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

    async def _is_taken(self, places: int) -> bool:
        limits = await self._deployment.limits("doomed", self._others[0].url)
        return bool(limits["concurrency"]["used"] == places)

    async def _until_taken(self, places: int) -> float:
        return await until(
            lambda: self._is_taken(places),
            f"{places} places to be taken",
            within_s=2 * self._lease_ttl_s + 10,
        )

    async def _ask_meanwhile(
        self, until: asyncio.Future[float]
    ) -> tuple[int, list[Answer]]:
        """
        Ask for both workspaces until the places are free: how often the one whose
        places are taken was refused, and what the other was answered.
        """
        refused, answers = 0, []
        while not until.done():
            doomed = await self._deployment.chat("doomed")
            refused += doomed.code == "concurrency_limit_exceeded"
            answers.append(await self._deployment.chat("other"))
            await asyncio.sleep(1 / OTHERS_PER_S)
        return refused, answers

    def _freed(self, free_s: float, refused: int) -> Check:
        # At the kill a lease may just have been renewed, or have a third of it behind.
        figure = f"{free_s:.1f} s after the kill, of a lease of {self._lease_ttl_s:g} s"
        is_good = free_s <= self._lease_ttl_s + SLACK_S and refused > 0
        return Check("all its places free", f"{figure} ({refused} refused)", is_good)

    def _undisturbed(self, answers: list[Answer], ended: list[Answer]) -> list[Check]:
        served = sum(answer.status == 200 for answer in answers)
        whole = sum(answer.body.endswith(b"data: [DONE]\n\n") for answer in ended)
        return [
            Check(
                "others' requests answered",
                f"{served} of {len(answers)}",
                served == len(answers) > 0,
            ),
            Check(
                "others' streams whole", f"{whole} of {len(ended)}", whole == len(ended)
            ),
        ]

    async def _charged(self, broken: list[Answer]) -> list[Check]:
        limits = await self._deployment.limits("doomed", self._others[0].url)
        used = limits["tokens-per-calendar-month"]["used"]
        # Each reported what it had streamed by then: more than its prompt, and less
        # than its reservation.
        is_presumed = 10 * STREAMS < used < RESERVED * STREAMS
        return [
            Check(
                "clients that saw it break", str(len(broken)), len(broken) == STREAMS
            ),
            Check(
                "tokens charged for them",
                f"{used:,}, of {RESERVED * STREAMS:,} reserved",
                is_presumed,
            ),
        ]


async def run(lease_ttl_s: float) -> int:
    async with (
        RedisServer() as server,
        deployed(
            PLANS, store_url=server.url, GATEWAY_LEASE_TTL_S=f"{lease_ttl_s:g}"
        ) as deployment,
    ):
        checks = await Crash(deployment, lease_ttl_s).prove()
    return report(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lease-ttl-s", type=float, default=30.0)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(parser.parse_args().lease_ttl_s))


if __name__ == "__main__":
    sys.exit(main())
