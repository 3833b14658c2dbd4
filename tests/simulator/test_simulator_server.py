"""The running simulator: disconnects, shutdown, statistics, listings."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.simulator import SimulatorSettings, running_simulator

from .harness import CHAT, INFERENCE, MODEL, chat, simulated

SLOW = SimulatorSettings(
    tokens_per_second=20, answer_tokens_min=900, answer_tokens_max=900
)


async def test_client_that_leaves_a_stream_is_noticed_at_once() -> None:
    """Between two tokens, not at the next one."""
    async with simulated(tokens_per_second=0.2) as (simulator, client):
        async with client.stream("POST", CHAT, json=chat(stream=True)) as answer:
            await anext(answer.aiter_lines())

        await simulator.wait_until(lambda stats: stats.disconnects == 1, 0.5)
        await simulator.wait_until(lambda stats: stats.open == 0, 0.5)


async def test_client_that_leaves_before_a_whole_answer_is_noticed_at_once() -> None:
    """A slow whole answer is given up when nobody waits for it."""
    async with simulated(ttft_ms=60_000) as (simulator, client):
        request = asyncio.create_task(client.post(INFERENCE, json={"prompt": "x"}))
        await simulator.wait_until(lambda stats: stats.open == 1)
        request.cancel()

        await simulator.wait_until(lambda stats: stats.disconnects == 1, 0.5)
        await simulator.wait_until(lambda stats: stats.open == 0, 0.5)


async def test_client_that_leaves_mid_request_is_noticed() -> None:
    """A body that never arrives ends with its connection."""
    async with simulated() as (simulator, _):
        _, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        head = (
            f"POST {CHAT} HTTP/1.1\r\nauthorization: k\r\ncontent-length: 99\r\n\r\n{{"
        )
        writer.write(head.encode())
        await simulator.wait_until(lambda stats: stats.open == 1)
        writer.close()
        await writer.wait_closed()

        await simulator.wait_until(lambda stats: stats.disconnects == 1)
        await simulator.wait_until(lambda stats: stats.open == 0)


async def test_client_that_reads_to_the_end_is_no_disconnect() -> None:
    """Closing an idle connection counts for nothing."""
    async with simulated() as (simulator, client):
        await client.post(CHAT, json=chat(stream=True))
        await client.aclose()
        await simulator.wait_until(lambda stats: stats.open == 0)

    assert simulator.stats.disconnects == 0


async def test_body_in_many_pieces_is_read_whole() -> None:
    """Slowly sent bodies are put together."""

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"prompt": "Hel'
        await asyncio.sleep(0)
        yield b'lo there"}'

    async with simulated() as (_, client):
        whole = await client.post(INFERENCE, json={"prompt": "Hello there"})
        pieced = await client.post(INFERENCE, content=trickle())

    assert whole.json() == pieced.json()


async def test_shutdown_with_open_streams_is_prompt() -> None:
    """Leaving the context cuts streams off instead of waiting for them."""
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient(timeout=5, headers={"authorization": "k"}) as client:
        async with running_simulator(SLOW) as simulator:
            url = simulator.url + CHAT
            request = client.build_request("POST", url, json=chat(stream=True))
            answer = await client.send(request, stream=True)
            begun = loop.time()

        assert loop.time() - begun < 0.5
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    assert (simulator.stats.open, simulator.stats.disconnects) == (0, 0)


async def test_running_simulator_leaves_signal_handlers_alone() -> None:
    """A guest in another's event loop changes nothing of the process."""
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    async with simulated():
        during = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    assert before == during


async def test_stats_count_requests_by_route() -> None:
    """Paths with parameters count under their template, unknown ones together."""
    async with simulated() as (simulator, client):
        for path in (INFERENCE, "/v1/models/llmtune-mini/inference", "/a", "/b"):
            await client.post(path, json={"prompt": "x"})
        stats = (await client.get("/simulator/stats")).json()

    assert stats["requests"] == {
        "/v1/models/{modelId}/inference": 2,
        "_other": 2,
        "/simulator/stats": 1,
    }
    assert stats["open"] == 1
    assert simulator.stats.requests["_other"] == 2


async def test_model_listings_hold_slashed_ids() -> None:
    """Both listings show the same models in their own shape."""
    async with simulated() as (_, client):
        agent = (await client.get("/api/agent/v1/models")).json()
        plain = (await client.get("/api/models/list")).json()

    entry = {
        "id": MODEL,
        "name": "Llama-3.3-70B-Instruct",
        "owned_by": "meta-llama",
    }
    assert (agent["object"], plain["success"]) == ("list", True)
    assert entry in agent["data"]
    assert agent["data"] == plain["data"]
    assert plain["count"] == len(plain["data"])


async def test_usage_summary_adds_up_what_was_answered() -> None:
    """Tokens of all answers are summed."""
    async with simulated(generation=3) as (_, client):
        usages = [
            (await client.post(INFERENCE, json={"prompt": prompt})).json()["usage"]
            for prompt in ("one", "two words")
        ]
        summary = (await client.get("/api/usage/summary")).json()["data"]

    assert summary["requests"] == 2
    assert summary["tokens"] == {
        "input": sum(usage["prompt_tokens"] for usage in usages),
        "output": sum(usage["completion_tokens"] for usage in usages),
        "total": sum(usage["total_tokens"] for usage in usages),
    }


async def test_many_open_streams_are_served_side_by_side() -> None:
    """A hundred paced streams take about as long as one, 0.2 s, not 20."""
    knobs = {"tokens_per_second": 100.0, "answer_tokens_min": 20}
    async with simulated(**knobs, answer_tokens_max=20) as (_, client):
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(
            base_url=client.base_url, headers=client.headers, limits=limits, timeout=10
        ) as crowd:
            begun = asyncio.get_running_loop().time()
            async with asyncio.TaskGroup() as group:
                for _ in range(100):
                    group.create_task(crowd.post(CHAT, json=chat(stream=True)))

    assert asyncio.get_running_loop().time() - begun < 8
