"""Plans held by two replicas that share nothing but a Redis."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import pytest

from policies.ledger import LimitState
from policies.plans import Plan
from tests.gateway_under_test import (
    GatewayUnderTest,
    events_of,
    gateway_under_test,
    workspace_of,
    write_policy,
)
from tests.servers.redis_server import RedisServer
from tests.upstream import PATIENCE_S, ScriptedUpstream

Pair: TypeAlias = tuple[GatewayUnderTest, GatewayUnderTest]
StartPair: TypeAlias = Callable[[dict[str, str]], Awaitable[Pair]]

ONE_AT_A_TIME = "plan: single\nconcurrency: 1\n"
REQUESTS = "requests-per-calendar-day"
FIVE_A_DAY = """\
plan: five
concurrency: 100
quotas: [{of: requests, limit: 5, per: day}, {of: tokens, limit: 1000000, per: day}]
"""


@pytest.fixture
async def start_pair(
    upstream: ScriptedUpstream, start_redis: Any, tmp_path: Path
) -> AsyncIterator[StartPair]:
    """Starts two gateways with the same plans in front of one Redis of their own."""
    async with AsyncExitStack() as running:

        async def start(plans: dict[str, str]) -> Pair:
            server: RedisServer = await start_redis()

            async def replica() -> GatewayUnderTest:
                return await running.enter_async_context(
                    gateway_under_test(
                        tmp_path,
                        plans,
                        upstream_url=upstream.url,
                        store_url=server.unix_url,
                        store_timeout_s=PATIENCE_S,
                        store_connect_timeout_s=PATIENCE_S,
                        reload_interval_s=0.02,
                    )
                )

            return await replica(), await replica()

        yield start


async def states(gateway: GatewayUnderTest, plan: str) -> dict[str, LimitState]:
    found = gateway.gateway.files.book.plan_for(plan, workspace_of(plan))
    assert isinstance(found, Plan)
    listed = await gateway.gateway.ledger.inspect(workspace_of(plan), found)
    return {state.name: state for state in listed}


async def settled_states(gateway: GatewayUnderTest, plan: str) -> dict[str, LimitState]:
    """The states once nothing is held: answers do not wait for their settlement."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await states(gateway, plan)
            if found["concurrency"].used == 0:
                return found


def codes(answers: list[httpx.Response]) -> Counter[int]:
    return Counter(answer.status_code for answer in answers)


async def test_hundred_at_once_over_two_replicas_admit_exactly_five(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """A limit is the workspace's, not a replica's."""
    pair = await start_pair({"five": FIVE_A_DAY})

    asked = [pair[number % 2].chat("five", max_tokens=5) for number in range(100)]
    answers = await asyncio.gather(*asked)

    assert codes(answers) == {200: 5, 429: 95}
    assert (await states(pair[0], "five"))[REQUESTS].used == 5


async def test_place_that_one_replica_gives_back_is_free_on_the_other(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """An abandoned stream frees its lease everywhere, at once."""
    left, right = await start_pair({"single": ONE_AT_A_TIME})
    upstream.will_stream({"text": "Hel"}, then="hang")
    async with left.stream_chat("single") as stream:
        await stream.text_until("Hel")
        refused = await right.chat("single")
        assert refused.json()["error"]["code"] == "concurrency_limit_exceeded"

    async with asyncio.timeout(PATIENCE_S):
        while (await right.chat("single")).status_code != 200:
            pass


async def test_requests_one_after_another_never_meet_their_own_lease(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """Whoever reads an answer to its end may ask again at once, whole or streamed."""
    left, _ = await start_pair({"single": ONE_AT_A_TIME})
    for number in range(30):
        if number % 2:
            upstream.will_stream({"text": "Hi"})

        answer = await left.chat("single", stream=bool(number % 2))

        assert answer.status_code == 200
        if number % 2:
            assert events_of(answer)[-1] == "[DONE]"


async def test_upgrade_takes_effect_at_once_and_keeps_usage(
    start_pair: StartPair, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    """Both replicas read the new plan; what was used under the old one stays used."""
    pair = await start_pair({"five": FIVE_A_DAY})
    answers = [await pair[number % 2].chat("five") for number in range(6)]
    assert codes(answers) == {200: 5, 429: 1}

    write_policy(tmp_path, {"five": FIVE_A_DAY.replace("limit: 5,", "limit: 7,")})
    async with asyncio.timeout(PATIENCE_S):
        for gateway in pair:
            # Asking takes a round trip, in which the file watch may come round.
            while (await states(gateway, "five"))[REQUESTS].capacity != 7:
                pass

    answers = [await pair[number % 2].chat("five") for number in range(4)]
    assert codes(answers) == {200: 2, 429: 2}


async def test_settlement_is_seen_by_the_other_replica_to_the_token(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """What one reserved too much, both have back."""
    left, right = await start_pair({"five": FIVE_A_DAY})
    upstream.will_answer({"text": "Hi", "tokens": 123})

    await left.chat("five", max_tokens=5000)

    used = await settled_states(right, "five")
    assert used["tokens-per-calendar-day"].used == 123
    assert used["concurrency"].used == 0
