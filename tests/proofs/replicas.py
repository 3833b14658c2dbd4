"""
Four replicas, one Redis, and more requests than any of its plans allows.

    python -m tests.proofs.replicas [--admissions 200000] [--cluster]

Each limit is filled, and none may be exceeded by a single unit. In the end every
workspace must have been charged exactly what its clients were delivered, and Redis must
hold nothing for it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

import uvloop

from tests.proofs.check import Check, report, until
from tests.proofs.deployment import Deployment, deployed
from tests.proofs.fill import fill_of
from tests.proofs.limits import Workspace, workspaces
from tests.proofs.load import Load
from tests.proofs.redis_state import RedisState, rest_check, ttl_check
from tests.proofs.sums import sum_checks
from tests.servers.cluster import RedisCluster, redis_cluster
from tests.servers.redis_server import RedisServer

ADMISSIONS: Final = 200_000
SETTLED_WITHIN_S: Final = 20.0
# Far more than it takes: two cores admit some 400 a second.
SECONDS_BEFORE: Final = 60.0
SECONDS_EACH: Final = 0.01


class Proof:
    """Everything at once, then limit by limit."""

    def __init__(
        self, deployment: Deployment, state: RedisState, admissions: int
    ) -> None:
        self._deployment = deployment
        self._state = state
        self._workspaces = workspaces(admissions)
        self._load = Load(deployment, self._workspaces, admissions)
        self._within_s = SECONDS_BEFORE + SECONDS_EACH * admissions

    async def prove(self) -> list[Check]:
        await self._load.warm_up(self._workspaces[0])
        started_s = time.monotonic()
        await self._load.run(within_s=self._within_s)
        took_s = time.monotonic() - started_s
        # What is left of a number of tokens is known when nothing is reserved.
        rested = [await self._rest()]
        await self._fill_up()
        rested.append(await self._rest())
        tally = await self._deployment.tally()
        return [
            self._admitted(took_s),
            self._unexpected(),
            *self._refused(),
            *self._filled(tally),
            *rested,
            *[
                check
                for workspace in self._workspaces
                for check in await self._sums(workspace.name, tally)
            ],
            await rest_check(self._state, [f"ws-{w.name}" for w in self._workspaces]),
            await ttl_check(self._state),
        ]

    async def _rest(self) -> Check:
        """Wait until no workspace has a place taken."""
        taken = []
        for workspace in self._workspaces:
            try:
                await until(
                    partial(self._is_idle, workspace.name),
                    f"{workspace.name} to hold nothing",
                    within_s=SETTLED_WITHIN_S,
                )
            except TimeoutError:
                taken.append(workspace.name)
        return Check("places taken after the end", ", ".join(taken) or "0", not taken)

    async def _is_idle(self, plan: str) -> bool:
        limits = await self._deployment.limits(plan)
        return bool(limits["concurrency"]["used"] == 0)

    async def _fill_up(self) -> None:
        for workspace in self._workspaces:
            for limit in workspace.limits:
                is_of_tokens = limit.is_total and limit.of == "tokens"
                if is_of_tokens and limit.dimension in workspace.meets:
                    await self._load.fill(workspace, limit)

    def _admitted(self, took_s: float) -> Check:
        admitted = sum(map(len, self._load.served.values()))
        asked = self._load.asked
        return Check(
            "admitted", f"{admitted:,} of {asked:,} requests in {took_s:.0f} s"
        )

    def _unexpected(self) -> Check:
        found = [f"{n} x {what}" for what, n in self._load.unexpected.items()]
        return Check("unexpected answers", ", ".join(found) or "0", not found)

    def _refused(self) -> Iterator[Check]:
        for workspace in self._workspaces:
            if not workspace.meets:
                continue
            refused = self._load.refused[workspace.name]
            figures = [f"{dimension} {refused[dimension]:,}" for dimension in refused]
            figures += [f"never {name}" for name in self._load.missing(workspace)]
            yield Check(
                f"{workspace.name}: refused by",
                ", ".join(sorted(figures)),
                not self._load.missing(workspace),
            )

    def _filled(self, tally: dict[str, Any]) -> Iterator[Check]:
        """Each limit of each plan, in the workspace that filled it most."""
        plans: dict[str, list[Workspace]] = {}
        for workspace in self._workspaces:
            plans.setdefault(workspace.plan, []).append(workspace)
        for plan, members in plans.items():
            for limit in members[0].limits:
                fills = [
                    fill_of(
                        limit,
                        self._load.served[member.name],
                        tally[f"ws-{member.name}"]["most_running"],
                    )
                    for member in members
                ]
                over = max(fill.over for fill in fills)
                fullest = max(fills, key=lambda fill: fill.share)
                figure = f"{over:g} ({fullest.figure}"
                figure += ")" if fullest.is_filled else ", not filled)"
                name = f"{plan}: {limit.dimension}, over-admitted"
                yield Check(name, figure, not over and fullest.is_filled)

    async def _sums(self, plan: str, tally: dict[str, Any]) -> list[Check]:
        return await sum_checks(
            self._deployment,
            plan,
            tally,
            requests=len(self._load.served[plan]),
            tokens=self._load.tokens(plan),
        )


async def run(admissions: int, *, is_cluster: bool = False) -> int:
    plans = {w.name: w.plan_file() for w in workspaces(admissions)}
    async with AsyncExitStack() as held:
        store: RedisServer | RedisCluster
        if is_cluster:
            store = await held.enter_async_context(redis_cluster())
        else:
            store = await held.enter_async_context(RedisServer())
        deployment = await held.enter_async_context(
            # A client that takes both cores for itself makes everybody slow.
            deployed(plans, store_url=store.url, GATEWAY_STORE_TIMEOUT_S="2")
        )
        proof = Proof(deployment, RedisState.of(store), admissions)
        checks = await proof.prove()
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
