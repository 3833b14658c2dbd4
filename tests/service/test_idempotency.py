"""One generation a key, and its answer for everybody who asks again."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.replay.remote import RemoteAnswers
from gateway.replay.replays import MAX_FOLLOWING
from policies.replay.memory_replays import MemoryReplays
from policies.replay.port import (
    Claim,
    Reading,
    ReplayDamaged,
    ReplayKey,
    ReplayUnavailable,
)
from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, GatewayUnderTest, chat_body, until
from tests.service.test_shared_limits import StartPair, start_pair
from tests.upstream import LAST_CHUNK, STREAM_HEAD, ScriptedUpstream, frame, whole

__all__ = ["start_pair"]

CHAT = "/v1/chat/completions"
TEXT = [{"text": "Hel"}, {"text": "lo"}, {"done": True}]
# A port on which nobody listens.
NOBODY = "redis://127.0.0.1:1"
COUNTED = """\
plan: counted
quotas: [{of: requests, limit: 100, per: day}, {of: tokens, limit: 100000, per: day}]
"""


async def ask(
    gateway: GatewayUnderTest,
    key: str = "order-4711",
    *,
    plan: str = "open",
    path: str = CHAT,
    **body: Any,
) -> httpx.Response:
    """The same request each time, under a key."""
    headers = {**gateway.auth(plan), "idempotency-key": key}
    asked = chat_body(**body)
    return await gateway.client.post(path, json=asked, headers=headers)


def error_of(response: httpx.Response) -> Any:
    return response.json()["error"]["code"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_who_asks_again_gets_the_first_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    """To the byte, without a call upstream, and for nothing."""
    gateway = await start_gateway({"counted": COUNTED})
    if stream:
        upstream.will_stream(*TEXT)
    else:
        upstream.will_answer({"text": "Hello", "tokens": 9})

    first = await ask(gateway, plan="counted", stream=stream)
    used = await gateway.used("counted")
    again = await ask(gateway, plan="counted", stream=stream)

    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert again.headers["content-type"] == first.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    original = again.headers["idempotent-original-request-id"]
    assert original == first.headers["x-request-id"] != again.headers["x-request-id"]
    assert len(upstream.requests) == 1
    assert await gateway.used("counted") == used
    assert again.headers["x-ratelimit-remaining-requests"] == "99"


async def test_another_request_under_the_key_is_a_422(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    upstream.will_answer({"text": "Hello", "tokens": 9})
    await ask(gateway)

    refused = await ask(gateway, max_tokens=17)
    elsewhere = await gateway.client.post(
        "/v1/completions",
        json={"model": MODEL, "prompt": "Hi"},
        headers={**gateway.auth(), "idempotency-key": "order-4711"},
    )

    for response in (refused, elsewhere):
        assert (response.status_code, error_of(response)) == (
            422,
            "idempotency_key_reused",
        )
    assert len(upstream.requests) == 1


async def test_a_whole_answer_is_waited_for(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """By fifty at once on two replicas: one generation, and fifty equal answers."""
    replicas = await start_pair({"open": "plan: open"})
    go_on = asyncio.Event()
    upstream.will(go_on, whole(b'{"text":"Hello","tokens":9}'))
    asked = [asyncio.create_task(ask(replicas[n % 2])) for n in range(50)]
    await upstream.saw()
    await replicas[1].until_present(25)
    go_on.set()

    answers = await asyncio.gather(*asked)

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("key", ["", '"', "x" * 256, "a\tb"])
async def test_a_key_that_is_none_is_a_400(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, key: str
) -> None:
    response = await ask(gateway, key)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Idempotency-Key"
    assert upstream.requests == []


async def test_what_may_succeed_later_is_run_again(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A failure of the upstream's, twice: also the second leaves the key free."""
    for _ in range(2):
        upstream.will(whole(b'{"error":{"message":"no"}}', status=500))
    upstream.will_answer({"text": "Hello", "tokens": 9})

    answers = [await ask(gateway) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [502, 502, 200, 200]
    assert "idempotent-replayed" in answers[3].headers
    assert len(upstream.requests) == 3


async def test_what_the_upstream_refused_for_good_is_kept(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    upstream.will(
        whole(b'{"error":{"message":"no such voice","code":"bad"}}', status=422)
    )

    first, again = await ask(gateway), await ask(gateway)

    assert first.status_code == again.status_code == 422
    assert again.json() == first.json()
    assert again.headers["idempotent-replayed"] == "true"
    assert len(upstream.requests) == 1


async def test_a_refusal_by_the_plan_uses_no_key_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Neither a limit's nor a check's: the key is as if it had never been used."""
    plan = "plan: tight\nrequest: {max_output_tokens: 10}\nconcurrency: 0"
    gateway = await start_gateway({"tight": plan, "open": "plan: open"})

    limited = await ask(gateway, plan="tight")
    too_much = await ask(gateway, plan="tight", max_tokens=11)
    again = await ask(gateway, plan="tight")

    statuses = [limited.status_code, too_much.status_code, again.status_code]
    assert statuses == [429, 400, 429]


async def test_a_stream_that_breaks_off_is_run_again(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Half an answer is nobody's answer."""
    upstream.will(STREAM_HEAD, frame({"text": "Hel"}), "cut")
    upstream.will_stream(*TEXT)

    broken = await ask(gateway, stream=True)
    complete = await ask(gateway, stream=True)

    assert "upstream_error" in broken.text
    assert "idempotent-replayed" not in complete.headers
    assert "[DONE]" in complete.text
    assert len(upstream.requests) == 2


async def test_pings_are_not_part_of_an_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """They broke a silence that a replay does not have."""
    gateway = await start_gateway(stream_ping_interval_s=0.05)
    go_on = asyncio.Event()
    upstream.will(
        STREAM_HEAD,
        frame({"text": "Hel"}),
        go_on,
        frame({"text": "lo"}) + frame("[DONE]"),
        LAST_CHUNK,
    )
    headers = {**gateway.auth(), "idempotency-key": "order-4711"}
    request = gateway.client.stream(
        "POST", CHAT, json=chat_body(stream=True), headers=headers
    )
    async with request as response:
        lines = []
        async for line in response.aiter_lines():
            lines.append(line)
            if line == ": ping":
                go_on.set()

    again = await ask(gateway, stream=True)

    said = [line for line in lines if line.startswith("data: ")]
    assert said == [line for line in again.text.splitlines() if line]


async def test_an_answer_larger_than_its_plan_keeps_is_not_kept(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = "plan: small\nidempotency: {max_answer_bytes: 300}"
    gateway = await start_gateway({"small": plan})
    for _ in range(2):
        upstream.will_answer({"text": "x" * 300, "tokens": 9})

    await ask(gateway, plan="small")
    again = await ask(gateway, plan="small")

    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers


async def test_an_answer_is_forgotten_when_its_plan_says(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = "plan: short\nidempotency: {ttl_s: 1}"
    gateway = await start_gateway({"short": plan})
    upstream.will_answer({"text": "one", "tokens": 9})
    upstream.will_answer({"text": "two", "tokens": 9})
    await ask(gateway, plan="short")

    async with asyncio.timeout(5):
        while "idempotent-replayed" in (await ask(gateway, plan="short")).headers:
            pass

    assert len(upstream.requests) == 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_replicas_answer_for_each_other(
    start_pair: StartPair, upstream: ScriptedUpstream, stream: bool
) -> None:
    """A retry goes to whichever replica the balancer picks."""
    one, other = await start_pair({"open": "plan: open"})
    go_on = asyncio.Event()
    if stream:
        events = b"".join(frame(event) for event in TEXT[:2])
        upstream.will(STREAM_HEAD, go_on, events + frame("[DONE]"), LAST_CHUNK)
    else:
        upstream.will(go_on, whole(b'{"text":"Hello","tokens":9}'))
    running = asyncio.create_task(ask(one, stream=stream))
    await upstream.saw()

    go_on.set()
    first = await running
    again = await ask(other, stream=stream)

    assert (again.status_code, again.content) == (200, first.content)
    assert len(upstream.requests) == 1


async def test_outcomes_are_counted(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    upstream.will_answer({"text": "Hello", "tokens": 9})
    await ask(gateway)
    await ask(gateway)
    await ask(gateway, max_tokens=17)

    name = "llmtune_gateway_replays_total"
    for outcome in ("first", "stored", "conflict"):
        await gateway.until_metric(f'{name}{{kind="key",outcome="{outcome}"}} 1.0')


async def test_while_the_store_is_away_a_key_is_not_risked(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Neither a replay nor a second run would be safe; without a key, life goes on."""
    gateway = await start_gateway(store_url=NOBODY)
    upstream.will_answer({"text": "Hello", "tokens": 9})

    keyed, plain = await ask(gateway), await gateway.chat()

    assert (keyed.status_code, error_of(keyed)) == (503, "store_unavailable")
    assert keyed.headers["x-should-retry"] == "true"
    assert plain.status_code == 200
    assert len(upstream.requests) == 1


class Lossy(MemoryReplays):
    """A store whose reply to a claim is lost, or comes late."""

    replies_lost = 1

    async def claim(
        self, key: ReplayKey, owner: str, *, replaces: bool = False
    ) -> Claim:
        claim = await super().claim(key, owner, replaces=replaces)
        if self.replies_lost:
            self.replies_lost -= 1
            raise ReplayUnavailable(is_ambiguous=True)
        return claim


async def test_a_claim_whose_reply_was_lost_is_given_back(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """It may have been a yes, and then nobody would run it."""
    gateway.gateway.replays.store = Lossy(lambda: 0, lease_ms=6000)

    unsure, again = await ask(gateway), await ask(gateway)

    assert (unsure.status_code, error_of(unsure)) == (503, "store_unavailable")
    assert again.status_code == 200
    assert "idempotent-replayed" not in again.headers


class Slow(MemoryReplays):
    """A store that does at once what it is asked, and is long in saying so."""

    claims = 0

    async def claim(
        self, key: ReplayKey, owner: str, *, replaces: bool = False
    ) -> Claim:
        claim = await super().claim(key, owner, replaces=replaces)
        self.claims += 1
        if self.claims == 1:
            await asyncio.Event().wait()
        return claim


async def test_a_client_that_leaves_while_its_key_is_claimed_leaves_it_free(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    store = gateway.gateway.replays.store = Slow(lambda: 0, lease_ms=6000)
    leaving = asyncio.create_task(ask(gateway))
    await until(lambda: store.claims == 1, "a claim")
    leaving.cancel()
    await gateway.until_present(0)

    answer = await ask(gateway)

    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers


class Damaged(MemoryReplays):
    """A store of which nothing can be read."""

    async def read(
        self, key: ReplayKey, recording: str, offset: int, *, follows: bool = True
    ) -> Reading:
        raise ReplayDamaged


@pytest.mark.parametrize("plan", ["open", "cached"])
async def test_an_answer_that_cannot_be_read_is_not_run_again(
    start_gateway: StartGateway, upstream: ScriptedUpstream, plan: str
) -> None:
    """Under a key, of which that was promised; what is only cached is."""
    gateway = await start_gateway({"cached": "plan: cached\ncache: {}"})
    gateway.gateway.replays.store = Damaged(lambda: 0, lease_ms=6000)
    gateway.gateway.replays.remote = RemoteAnswers(gateway.gateway.replays.store)
    headers = gateway.auth(plan)
    if plan == "open":
        headers["idempotency-key"] = "order-4711"

    answers = [
        await gateway.client.post(CHAT, json=chat_body(seed=1), headers=headers)
        for _ in range(2)
    ]

    statuses = [answer.status_code for answer in answers]
    assert statuses == ([200, 503] if plan == "open" else [200, 200])
    assert len(upstream.requests) == (1 if plan == "open" else 2)


async def test_a_model_that_was_taken_away_is_not_replayed(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A key that may not use it hears what everybody hears."""
    gateway = await start_gateway({"some": "plan: some"}, reload_interval_s=0.02)
    await ask(gateway, plan="some")
    assert gateway.gateway.settings.plans_dir is not None
    file = gateway.gateway.settings.plans_dir / "some.yaml"
    file.write_text('plan: some\nmodels: ["llmtune-mini"]\n')
    await gateway.until_metric(
        'llmtune_gateway_reloads_total{outcome="ok",what="plans"} 1.0'
    )

    refused = await ask(gateway, plan="some")

    assert (refused.status_code, error_of(refused)) == (404, "model_not_found")


async def test_a_workspace_follows_only_so_often_at_once(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """No limit of its plan counts those who follow, so there is a bound of ours."""
    go_on = asyncio.Event()
    upstream.will(go_on, whole(b'{"text":"Hello","tokens":9}'))
    running = asyncio.create_task(ask(gateway))
    await upstream.saw()
    gateway.gateway.replays.following["ws-open"] = MAX_FOLLOWING

    told = await ask(gateway)
    gateway.gateway.replays.following.clear()
    go_on.set()

    assert (told.status_code, error_of(told)) == (409, "idempotency_in_flight")
    assert (await running).status_code == 200
