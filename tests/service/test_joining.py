"""Requests that ask again while the first one runs get its answer, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import (
    GatewayUnderTest,
    OpenStream,
    chat_body,
    events_of,
    text_of,
    until,
)
from tests.service.test_idempotency import CHAT, COUNTED, ask, error_of
from tests.service.test_shared_limits import StartPair, settled_states, start_pair
from tests.upstream import LAST_CHUNK, STREAM_HEAD, ScriptedUpstream, frame, whole

__all__ = ["start_pair"]

HELLO = frame({"text": "Hel"}), frame({"text": "lo"})
END = frame("[DONE]") + LAST_CHUNK
JOINS = "plan: open\nidempotency: {join_retries_s: 10}\n"
PATIENT_PLAN = "plan: open\nconcurrency: 5\n"


@asynccontextmanager
async def stream(
    gateway: GatewayUnderTest, key: str = "order-4711", plan: str = "open", **body: Any
) -> AsyncIterator[OpenStream]:
    """An open stream under a key; the same request each time."""
    headers = {**gateway.auth(plan), "idempotency-key": key}
    asked = chat_body(stream=True, **body)
    async with gateway.client.stream(
        "POST", CHAT, json=asked, headers=headers
    ) as response:
        yield OpenStream(response)


async def until_joined(gateway: GatewayUnderTest, count: int = 1) -> None:
    """Wait until so many follow an answer of this replica's, or from the store."""
    replays = gateway.gateway.replays
    await until(lambda: replays.following.total() == count, f"{count} who follow")


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_a_stream_is_joined_from_its_begin(
    start_pair: StartPair, upstream: ScriptedUpstream, elsewhere: bool
) -> None:
    """What was sent is there at once, and what comes comes as it comes."""
    one, two = await start_pair({"open": PATIENT_PLAN})
    other = two if elsewhere else one
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)

    async with stream(one) as first:
        await first.text_until("Hel")
        async with stream(other) as second:
            await second.text_until("Hel")
            assert second.response.headers["idempotent-replayed"] == "true"
            go_on.set()
            await second.text_until("lo")
            await first.text_until("lo")
    await until(lambda: not one.gateway.attendance, "the first to end")

    again = await ask(other, stream=True)
    assert text_of(events_of(again)) == "Hello"
    assert len(upstream.requests) == 1
    assert (await settled_states(one, "open"))["concurrency"].used == 0


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
async def test_everybody_gets_the_same_bytes(
    start_pair: StartPair, upstream: ScriptedUpstream, elsewhere: bool
) -> None:
    """Who ran it, who joined it, and who came afterwards."""
    one, two = await start_pair({"open": PATIENT_PLAN})
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    running = asyncio.create_task(ask(one, stream=True))
    await upstream.saw()
    joined = two if elsewhere else one
    joining = [asyncio.create_task(ask(joined, stream=True)) for _ in range(20)]
    await until_joined(joined, 20)
    go_on.set()

    answers = [await running, *await asyncio.gather(*joining)]
    answers.append(await ask(joined, stream=True))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].text.endswith("data: [DONE]\n\n")
    assert len(upstream.requests) == 1


async def test_who_joins_pays_nothing_and_takes_no_place(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = f"{COUNTED}concurrency: 1\n"
    gateway = await start_gateway({"counted": plan})
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    running = asyncio.create_task(ask(gateway, plan="counted", stream=True))
    await upstream.saw()
    joining = [
        asyncio.create_task(ask(gateway, plan="counted", stream=True)) for _ in "123"
    ]
    await until_joined(gateway, 3)
    go_on.set()

    answers = [await running, *await asyncio.gather(*joining)]

    assert {answer.status_code for answer in answers} == {200}
    await gateway.until_free("counted")
    assert (await gateway.used("counted"))["requests-per-calendar-day"] == 1
    limits = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
    assert set(limits) == {"99"}


async def test_who_leaves_disturbs_nobody(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    running = asyncio.create_task(ask(gateway, stream=True))
    await upstream.saw()
    staying = asyncio.create_task(ask(gateway, stream=True))
    async with stream(gateway) as leaving:
        await leaving.text_until("Hel")
    await until_joined(gateway, 1)
    go_on.set()

    assert (await running).content == (await staying).content
    assert upstream.disconnects == 0


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_client_cut_off_gets_all_of_it_by_asking_again(
    start_gateway: StartGateway, upstream: ScriptedUpstream, streamed: bool
) -> None:
    """The upstream runs on, and is paid once."""
    gateway = await start_gateway({"counted": COUNTED})
    go_on = asyncio.Event()
    if streamed:
        upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    else:
        upstream.will(go_on, whole(b'{"text":"Hello","tokens":9}'))
    leaving = asyncio.create_task(ask(gateway, plan="counted", stream=streamed))
    await upstream.saw()
    leaving.cancel()
    await asyncio.wait([leaving])

    retry = asyncio.create_task(ask(gateway, plan="counted", stream=streamed))
    await until_joined(gateway)
    go_on.set()
    answer = await retry

    if streamed:
        assert text_of(events_of(answer)) == "Hello"
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
    await gateway.until_free("counted")
    assert (await gateway.used("counted"))["requests-per-calendar-day"] == 1
    assert len(upstream.requests) == 1
    assert upstream.disconnects == 0


async def test_a_retry_after_the_end_finds_what_nobody_read(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    async with stream(gateway) as leaving:
        await leaving.text_until("Hel")
    go_on.set()
    await until(lambda: not gateway.gateway.attendance, "the run to end")

    again = await ask(gateway, stream=True)

    assert text_of(events_of(again)) == "Hello"
    assert again.headers["idempotent-replayed"] == "true"
    assert len(upstream.requests) == 1


async def test_a_request_runs_on_only_as_long_as_its_plan_says(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Then the upstream is cut, and the key is free."""
    plan = "plan: hasty\nidempotency: {run_on_s: 0}"
    gateway = await start_gateway({"hasty": plan})
    upstream.will(STREAM_HEAD, HELLO[0], "hang")
    upstream.will_stream({"text": "Hello"}, {"done": True})

    async with stream(gateway, plan="hasty") as leaving:
        await leaving.text_until("Hel")
    await upstream.saw_disconnect()
    await gateway.until_free("hasty")
    again = await ask(gateway, plan="hasty", stream=True)

    assert "idempotent-replayed" not in again.headers
    assert len(upstream.requests) == 2


async def test_a_request_runs_on_as_long_as_somebody_follows(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = "plan: hasty\nidempotency: {run_on_s: 0}"
    gateway = await start_gateway({"hasty": plan})
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)

    async with stream(gateway, plan="hasty") as leaving:
        await leaving.text_until("Hel")
        staying = asyncio.create_task(ask(gateway, plan="hasty", stream=True))
        await until_joined(gateway)
    go_on.set()

    assert text_of(events_of(await staying)) == "Hello"
    assert len(upstream.requests) == 1


async def test_where_joining_is_off_others_are_told_to_come_back(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    plan = "plan: alone\nidempotency: {join: false}"
    gateway = await start_gateway({"alone": plan})
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, go_on, *HELLO, END)
    running = asyncio.create_task(ask(gateway, plan="alone", stream=True))
    await upstream.saw()

    told = await ask(gateway, plan="alone", stream=True)
    go_on.set()
    first = await running
    again = await ask(gateway, plan="alone", stream=True)

    assert (told.status_code, error_of(told)) == (409, "idempotency_in_flight")
    assert int(told.headers["retry-after-ms"]) > 0
    assert told.headers["x-should-retry"] == "true"
    assert again.content == first.content
    assert len(upstream.requests) == 1


async def test_who_waits_hears_what_the_first_heard(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Once for all: a failure is not repeated by each of those who wait."""
    go_on = asyncio.Event()
    upstream.will(go_on, whole(b'{"error":{"message":"no"}}', status=500))
    running = asyncio.create_task(ask(gateway))
    await upstream.saw()
    waiting = [asyncio.create_task(ask(gateway)) for _ in "1234"]
    await until_joined(gateway, 4)
    go_on.set()

    answers = [await running, *await asyncio.gather(*waiting)]

    assert {answer.status_code for answer in answers} == {502}
    assert len(upstream.requests) == 1


async def test_who_waits_elsewhere_runs_it_where_the_first_failed(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """One of them, that is; the others follow that one."""
    one, other = await start_pair({"open": "plan: open"})
    go_on = asyncio.Event()
    upstream.will(go_on, whole(b'{"error":{"message":"no"}}', status=500))
    upstream.will_answer({"text": "Hello", "tokens": 9})
    running = asyncio.create_task(ask(one))
    await upstream.saw()
    waiting = [asyncio.create_task(ask(other)) for _ in "1234"]
    await until_joined(other, 4)
    go_on.set()

    assert (await running).status_code == 502
    answers = await asyncio.gather(*waiting)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(upstream.requests) == 2


async def test_a_stream_that_breaks_off_breaks_off_for_all(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """With the same error event, and the key is free again."""
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, "cut")
    upstream.will_stream({"text": "Hello"}, {"done": True})
    running = asyncio.create_task(ask(gateway, stream=True))
    await upstream.saw()
    async with stream(gateway) as joined:
        await joined.text_until("Hel")
        go_on.set()
        assert (await joined.next_event())["error"]["code"] == "upstream_error"
        assert await joined.next_event() is None
    first = await running

    again = await ask(gateway, stream=True)

    assert events_of(first)[-1]["error"]["code"] == "upstream_error"
    assert text_of(events_of(again)) == "Hello"


async def test_a_long_answer_is_recorded_in_pieces_and_read_at_its_readers_pace(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """What is written is forgotten where it runs; who comes late reads it there."""
    one, other = await start_pair({"open": PATIENT_PLAN})
    words = [{"text": f"{n} ".rjust(1000, ".")} for n in range(300)]
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, *map(frame, words), go_on, frame({"done": True}), END)

    running = asyncio.create_task(ask(one, stream=True))
    await upstream.saw()
    async with stream(one) as here, stream(other) as there:
        await here.text_until("299 ")
        await there.text_until("299 ")
        assert one.gateway.replays.held_bytes < 100_000
        go_on.set()
    first = await running
    again = await ask(other, stream=True)

    assert again.content == first.content
    assert len(again.content) > 300_000


@pytest.mark.parametrize("limit", ["max_answer_bytes", "max_workspace_bytes"])
async def test_an_answer_too_large_to_keep_still_reaches_its_client(
    start_gateway: StartGateway, upstream: ScriptedUpstream, limit: str
) -> None:
    """Whole, and who asks meanwhile is told to come back."""
    plan = f"plan: small\nidempotency: {{{limit}: 20000}}"
    gateway = await start_gateway({"small": plan})
    words = [{"text": f"{n} ".rjust(1000, ".")} for n in range(100)]
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, *map(frame, words), go_on, frame({"done": True}), END)

    async with stream(gateway, plan="small") as first:
        await first.text_until("99 ")
        told = await ask(gateway, plan="small", stream=True)
        go_on.set()
        async with asyncio.timeout(5):
            while (last := await first.next_event()) not in ("[DONE]", None):
                pass
    again = await ask(gateway, plan="small", stream=True)

    assert last == "[DONE]"
    assert (told.status_code, error_of(told)) == (409, "idempotency_in_flight")
    assert "idempotent-replayed" not in again.headers


async def test_a_replica_that_shuts_down_hands_over(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """Nothing was sent yet, so who waits elsewhere runs it."""
    one, other = await start_pair({"open": "plan: open"})
    upstream.will("hang")
    upstream.will_answer({"text": "Hello", "tokens": 9})
    running = asyncio.create_task(ask(one))
    await upstream.saw()
    waiting = asyncio.create_task(ask(other))
    await until_joined(other)

    one.gateway.attendance.end_all()

    told = await running
    answer: httpx.Response = await waiting
    assert (told.status_code, error_of(told)) == (503, "shutting_down")
    assert answer.status_code == 200
    assert len(upstream.requests) == 2


async def test_pings_break_the_silence_of_those_who_follow(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(stream_ping_interval_s=0.05)
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    running = asyncio.create_task(ask(gateway, stream=True))
    await upstream.saw()
    async with stream(gateway) as joined:
        while await joined.next_line() != ": ping":
            pass
        go_on.set()
    assert text_of(events_of(await running)) == "Hello"


async def test_who_follows_is_told_when_its_replica_shuts_down(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """In the stream, as whoever runs one is; the runner elsewhere goes on."""
    one, other = await start_pair({"open": PATIENT_PLAN})
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    async with stream(one) as first:
        await first.text_until("Hel")
        async with stream(other) as joined:
            await joined.text_until("Hel")
            other.gateway.attendance.end_all()
            assert (await joined.next_event())["error"]["code"] == "shutting_down"
            assert await joined.next_event() is None
        go_on.set()
        await first.text_until("lo")


@asynccontextmanager
async def begun(
    gateway: GatewayUnderTest, plan: str, *, has_key: bool = True
) -> AsyncIterator[asyncio.StreamReader]:
    """A stream under the usual key whose client reads only as far as it is told to."""
    body = gateway.raw_chat(plan, stream=True)
    key = b"\r\nidempotency-key: order-4711" if has_key else b""
    asked = body.replace(b"host: x", b"host: x" + key)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", gateway.address.port, limit=1024
    )
    writer.write(asked)
    try:
        await reader.readuntil(b"\r\n\r\n")
        yield reader
    finally:
        writer.close()


@pytest.mark.parametrize("keeps", [4_000_000, 100_000], ids=["kept", "too large"])
async def test_a_client_that_lags_behind_holds_up_nobody_and_misses_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream, keeps: int
) -> None:
    """Where all of it is kept; else the upstream waits for the slowest, as it must."""
    plan = f"plan: open\nidempotency: {{max_answer_bytes: {keeps}}}"
    gateway = await start_gateway({"open": plan})
    words = [frame({"text": f"{n} ".rjust(10_000, ".")}) for n in range(300)]
    upstream.will(STREAM_HEAD, *words, END)
    received = b""
    async with begun(gateway, "open") as lagging, asyncio.timeout(20):
        following = asyncio.create_task(ask(gateway, stream=True))
        if keeps > 1_000_000:
            assert text_of(events_of(await following)).endswith("299 ")
        while not received.endswith(b"0\r\n\r\n"):
            received += await lagging.read(65_536)

    assert received.count(b"data: ") > 300
    assert b"299 " in received
    assert b"[DONE]" in received
    told = await following
    assert told.status_code in (200, 409)
    assert len(upstream.requests) == 1


async def test_who_takes_over_from_the_dead_takes_over_its_charge(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A replica that died had been charged for an answer that nobody has."""
    gateway = await start_gateway({"counted": COUNTED}, replay_lease_ttl_s=1)
    plan = gateway.gateway.files.book.plan_for("counted", "ws-counted")
    assert plan is not None
    upstream.will("hang")
    dying = asyncio.create_task(ask(gateway, plan="counted"))
    await upstream.saw()
    # It stands still: nobody renews its claim, and it never says that it has ended.
    recordings = gateway.gateway.replays.running
    (dead,) = recordings.values()
    recordings.clear()

    answer = await ask(gateway, plan="counted")

    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers
    tokens = answer.json()["usage"]["total_tokens"]
    recordings[dead.owner] = dead
    await until(lambda: gateway.held("counted") == 0, "nothing to be held")
    used = await gateway.used("counted")
    assert list(used.values()) == [1, tokens]
    dying.cancel()


async def test_a_retry_elsewhere_gets_an_answer_whose_client_seems_to_be_there(
    start_pair: StartPair, upstream: ScriptedUpstream
) -> None:
    """A half-open connection looks delivered to; who asks again knows better."""
    one, other = await start_pair({"open": JOINS})
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, HELLO[1], END)
    retrying = {**one.auth(), "x-stainless-retry-count": "1"}
    asked = chat_body(stream=True)
    first = asyncio.create_task(
        one.client.post(CHAT, json=asked, headers={**one.auth()})
    )
    await upstream.saw()
    retry = asyncio.create_task(other.client.post(CHAT, json=asked, headers=retrying))
    await until_joined(other)
    go_on.set()

    assert (await retry).content == (await first).content
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("is_joined", [False, True])
async def test_what_was_refused_is_counted_as_what_it_was(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, is_joined: bool
) -> None:
    """Not as a failure of ours, nor as a success, whoever hears of it."""
    go_on = asyncio.Event()
    refusal = whole(b'{"error":{"message":"no","code":"bad"}}', status=422)
    upstream.will(go_on, refusal)
    running = asyncio.create_task(ask(gateway))
    await upstream.saw()
    if is_joined:
        joining = asyncio.create_task(ask(gateway))
        await until_joined(gateway)
        go_on.set()
        await asyncio.gather(running, joining)
    else:
        go_on.set()
        await running
        await ask(gateway)

    await gateway.until_metric(
        "llmtune_gateway_requests_total"
        '{outcome="invalid",route="/v1/chat/completions"} 2.0'
    )


async def test_an_error_in_a_stream_is_counted_for_all_who_got_it(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(STREAM_HEAD, HELLO[0], go_on, "cut")
    running = asyncio.create_task(ask(gateway, stream=True))
    await upstream.saw()
    joining = asyncio.create_task(ask(gateway, stream=True))
    await until_joined(gateway)
    go_on.set()
    await asyncio.gather(running, joining)

    await gateway.until_metric(
        "llmtune_gateway_requests_total"
        '{outcome="upstream_error",route="/v1/chat/completions"} 2.0'
    )


async def test_a_request_that_ran_on_is_counted_as_one_whose_client_left(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    go_on = asyncio.Event()
    upstream.will(go_on, whole(b'{"text":"Hello","tokens":9}'))
    leaving = asyncio.create_task(ask(gateway))
    await upstream.saw()
    leaving.cancel()
    await asyncio.wait([leaving])
    go_on.set()

    await gateway.until_metric(
        "llmtune_gateway_requests_total"
        '{outcome="client_gone",route="/v1/chat/completions"} 1.0'
    )
    assert (await ask(gateway)).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("join_retries_s", ["", ", join_retries_s: 10"])
async def test_a_client_that_lags_behind_is_told_of_a_shutdown_once(
    start_gateway: StartGateway, upstream: ScriptedUpstream, join_retries_s: str
) -> None:
    """Its answer is kept, and what it has not read is there for a retry."""
    kept = f"{{max_answer_bytes: 9000000{join_retries_s}}}"
    gateway = await start_gateway({"open": f"plan: open\nidempotency: {kept}"})
    words = [frame({"text": f"{n} ".rjust(10_000, ".")}) for n in range(600)]
    upstream.will(STREAM_HEAD, *words, END)
    has_key = not join_retries_s
    async with begun(gateway, "open", has_key=has_key) as lagging, asyncio.timeout(20):
        await upstream.saw()
        await until(lambda: gateway.held() == 0, "the upstream's end")
        gateway.gateway.attendance.end_all()
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            received += await lagging.read(65_536)

    assert received.count(b'"code":"shutting_down"') == 1
    assert received.count(b"\r\n0\r\n\r\n") == 1
    assert len(received) < 6_000_000
    await gateway.until_metric(
        "llmtune_gateway_requests_total"
        '{outcome="unavailable",route="/v1/chat/completions"} 1.0'
    )


async def test_what_nobody_will_ever_have_is_not_run_on(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Too large to be kept, and its client has left."""
    plan = "plan: small\nidempotency: {max_answer_bytes: 5000}"
    gateway = await start_gateway({"small": plan})
    words = [frame({"text": f"{n} ".rjust(1000, ".")}) for n in range(20)]
    upstream.will(STREAM_HEAD, *words, "hang")
    async with stream(gateway, plan="small") as leaving:
        await leaving.text_until("19 ")

    await upstream.saw_disconnect()
    await gateway.until_free("small")


async def test_the_charge_of_the_dead_is_taken_back_though_its_successor_leaves(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Nobody else would ever know of it."""
    gateway = await start_gateway({"open": PATIENT_PLAN}, replay_lease_ttl_s=1)
    upstream.will("hang")
    dying = asyncio.create_task(ask(gateway))
    await upstream.saw()
    recordings = gateway.gateway.replays.running
    (dead,) = recordings.values()
    recordings.clear()
    admission, voided, go_on = gateway.gateway.admission, [], asyncio.Event()
    void = admission.void

    async def slow_void(workspace: str, lease_id: str) -> None:
        voided.append(lease_id)
        await go_on.wait()
        await void(workspace, lease_id)

    admission.void = slow_void  # type: ignore[method-assign]
    leaving = asyncio.create_task(ask(gateway))
    await until(lambda: voided == [dead.owner], "a takeover")
    leaving.cancel()
    await gateway.until_present(1)
    go_on.set()

    await until(lambda: not gateway.held(), "its charge to be taken back")
    recordings[dead.owner] = dead
    dying.cancel()
