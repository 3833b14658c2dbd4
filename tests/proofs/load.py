"""
Load: every workspace asks all replicas in turn, and what came of it is kept.

It goes on until so many were admitted and every limit has refused somebody, and fills
what holds tokens to the last one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any, Final

import msgspec

from gateway.limit_headers import DEGRADED
from policies.estimate import estimate_input_tokens, estimate_text_tokens
from tests.proofs.deployment import Deployment
from tests.proofs.fill import Served
from tests.proofs.lean_client import Answer, prompt
from tests.proofs.lean_upstream import INPUT_TOKENS
from tests.proofs.limits import Limit, Workspace

# Whoever is refused waits, longer each time: short enough to meet the next unit of a
# refill, long enough that the refused leave the machine to the admitted.
SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 0.4
# Until the other limits of a plan have room for the last tokens of a budget.
ROOM_WITHIN_S: Final = 20.0
# On each replica: until it is warm, nobody gets to ask faster than a refill.
WARM_UP: Final = 8


class Refusal(msgspec.Struct, frozen=True):
    """What a 429 says: which limit, and how much was asked of it."""

    dimension: str
    requested: int


class Load:
    """Requests of all workspaces over all replicas, and what came of each."""

    def __init__(
        self, deployment: Deployment, workspaces: list[Workspace], admissions: int
    ) -> None:
        self._deployment = deployment
        self._workspaces = workspaces
        self._left = admissions
        self._random = random.Random(admissions)
        self._deadline_s = 0.0
        self.asked = 0
        self.served: dict[str, list[Served]] = {w.name: [] for w in workspaces}
        self.refused: dict[str, Counter[str]] = {w.name: Counter() for w in workspaces}
        # What no answer should be, and how often it was.
        self.unexpected: Counter[str] = Counter()

    def tokens(self, name: str) -> int:
        return sum(answer.tokens for answer in self.served[name])

    def missing(self, workspace: Workspace) -> list[str]:
        """Limits that should have refused this workspace, and have not."""
        return sorted(workspace.meets - self.refused[workspace.name].keys())

    async def run(self, *, within_s: float) -> None:
        """Until so many were admitted and every limit was met, or the time is up."""
        self._deadline_s = time.monotonic() + within_s
        async with asyncio.TaskGroup() as workers:
            for workspace in self._workspaces:
                for _ in range(workspace.traffic.workers):
                    workers.create_task(self._work(workspace))

    async def warm_up(self, workspace: Workspace) -> None:
        """Have every replica answer a few times before limits are met."""
        requests = WARM_UP * len(self._deployment.gateways)
        asks = [self.ask(workspace, max_tokens=100) for _ in range(requests)]
        await asyncio.gather(*asks)

    def _is_over(self) -> bool:
        if time.monotonic() > self._deadline_s:
            return True
        return self._left <= 0 and not any(map(self.missing, self._workspaces))

    async def _work(self, workspace: Workspace) -> None:
        traffic, pause_s = workspace.traffic, SHORTEST_PAUSE_S
        while not self._is_over():
            is_stream = self._random.random() < traffic.stream_share
            refusal = await self.ask(
                workspace,
                stream=is_stream,
                max_tokens=traffic.max_tokens,
                output=traffic.output,
                events=traffic.events if is_stream else None,
            )
            if refusal is None:
                pause_s = SHORTEST_PAUSE_S
                continue
            await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def ask(self, workspace: Workspace, **fields: Any) -> Refusal | None:
        """One request; None if it was admitted, or is not as it should be."""
        answer = await self._deployment.chat(workspace.name, **fields)
        self.asked += 1
        if DEGRADED.decode() in answer.headers:
            self.unexpected["decided without Redis"] += 1
        if answer.status == 200:
            self._left -= 1
            ended_s = answer.asked_s + answer.took_s
            served = Served(answer.asked_s, ended_s, answer.tokens)
            self.served[workspace.name].append(served)
            return None
        return self._refusal(workspace, answer)

    def _refusal(self, workspace: Workspace, answer: Answer) -> Refusal | None:
        details = answer.json["error"].get("details") if answer.status == 429 else None
        if not details:
            code = answer.code if answer.status else "no answer"
            self.unexpected[f"{workspace.name}: {code}"] += 1
            return None
        dimension = details["dimension"]
        self.refused[workspace.name][dimension] += 1
        spent = self._spent(workspace, answer.asked_s)
        if dimension not in (spent or workspace.meets | workspace.may_meet):
            self.unexpected[f"{workspace.name}: refused by {dimension}"] += 1
        return Refusal(dimension, details["requested"])

    def _spent(self, workspace: Workspace, asked_s: float) -> set[str]:
        """The budget of requests that was gone by then: no other limit binds longer."""
        served = self.served[workspace.name]
        return {
            limit.dimension
            for limit in workspace.limits
            if limit.kind == "quota" and limit.of == "requests"
            if len(served) >= limit.most and served[limit.most - 1].ended_s < asked_s
        }

    async def fill(self, workspace: Workspace, limit: Limit) -> None:
        """
        Spend what is left of a number of tokens, having asked for one more than that.
        """
        left = limit.most - self.tokens(workspace.name)
        refusal = await self._ask_for(workspace, limit, left + 1)
        if refusal is None:
            return  # one too many: the sum says so
        if refusal.requested != left + 1:
            wrong = f"reserved {refusal.requested}, not {left + 1}"
            self.unexpected[f"{workspace.name}: {wrong}"] += 1
        await self._ask_for(workspace, limit, left)
        await self._ask_for(workspace, limit, 2 * INPUT_TOKENS)

    async def _ask_for(
        self, workspace: Workspace, limit: Limit, tokens: int
    ) -> Refusal | None:
        """Reserve and use so many, as soon as no other limit is in the way."""
        output = tokens - INPUT_TOKENS
        content = prompt(f"ws-{workspace.name}", output=output)
        text_tokens = estimate_text_tokens(content)
        max_tokens = tokens - estimate_input_tokens(text_tokens)
        deadline_s = time.monotonic() + ROOM_WITHIN_S
        while True:
            refusal = await self.ask(workspace, output=output, max_tokens=max_tokens)
            if refusal is None or refusal.dimension == limit.dimension:
                return refusal
            if time.monotonic() > deadline_s:
                return refusal
            await asyncio.sleep(LONGEST_PAUSE_S)
