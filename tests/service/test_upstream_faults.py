"""An upstream that fails in every way: the right status, no hang, one retry at most."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest
from tests.upstream import ScriptedUpstream, whole

SEED = {"error": {"message": "seed says no", "code": "NOPE", "details": {"a": 1}}}
DOCS = {"error": "nope", "message": "docs say no", "retryAfter": 7}

STATUSES = [
    pytest.param(400, 400, "nope", id="400"),
    pytest.param(402, 402, "insufficient_credits", id="402"),
    pytest.param(404, 404, "model_not_found", id="404"),
    pytest.param(429, 429, "rate_limit_exceeded", id="429"),
    pytest.param(500, 502, "upstream_error", id="500"),
    pytest.param(502, 502, "upstream_error", id="502"),
    pytest.param(302, 502, "upstream_error", id="302"),
]


@pytest.mark.parametrize(("upstream_status", "status", "code"), STATUSES)
@pytest.mark.parametrize("body", [SEED, DOCS], ids=["seed", "docs"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_upstream_errors_become_envelopes(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    upstream_status: int,
    status: int,
    code: str,
    body: dict[str, Any],
    *,
    stream: bool,
) -> None:
    """Both shapes, whole or streamed; the status is kept where it is the client's."""
    upstream.will_answer(body, status=upstream_status, headers={"location": "/x"})

    response = await gateway.chat(stream=stream)

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (status, code)
    assert {"message", "type", "param", "code"} <= set(error)
    assert response.headers["x-request-id"]
    if code != "model_not_found":
        assert error["details"]["whose"] == "upstream"
    assert len(upstream.requests) == 1


async def test_upstream_details_and_wait_reach_the_client(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """LLMTune's own fields survive the translation."""
    upstream.will_answer(SEED, status=429, headers={"retry-after": "9"})

    response = await gateway.chat()

    assert response.json()["error"]["details"] == {
        "a": 1,
        "upstream_code": "NOPE",
        "whose": "upstream",
    }
    assert response.headers["retry-after"] == "9"


async def test_the_gateways_refused_key_is_not_blamed_on_the_client(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A 401 would send an application developer looking in the wrong place."""
    upstream.will_answer(SEED, status=401)

    response = await gateway.chat()

    assert response.status_code == 502
    assert "gateway's own API key" in response.json()["error"]["message"]


BROKEN = [
    pytest.param((whole(b"not json"),), id="not json"),
    pytest.param((whole(b"[1,2]"),), id="not an object"),
    pytest.param((whole(b"{}"),), id="empty object"),
    pytest.param((whole(b'{"choices":[]}'),), id="no choices"),
    pytest.param((whole(b'{"text":5}'),), id="text is a number"),
    pytest.param((whole(b'{"choices":[{"message":{"content":[]}}]}'),), id="content"),
    pytest.param((whole(b'{"error":{"message":"x"}}'),), id="error with status 200"),
    pytest.param(
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{", "close"), id="cut"
    ),
    pytest.param((b"garbage\r\n\r\n", "close"), id="no http"),
    pytest.param(("cut",), id="reset"),
    pytest.param(("close",), id="hung up"),
    pytest.param(
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n"
            b"content-length: 4\r\n\r\nabcd",
        ),
        id="broken gzip",
    ),
]


@pytest.mark.parametrize("script", BROKEN)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_garbage_is_a_502_and_never_repeated(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, script: Any, *, stream: bool
) -> None:
    """Once a byte was sent upstream, a second call could be a second charge."""
    upstream.will(*script)

    response = await gateway.chat(stream=stream)

    assert response.status_code == 502
    assert response.json()["error"]["code"] == "upstream_error"
    assert len(upstream.requests) == 1


async def test_a_refused_connection_is_a_502(start_gateway: StartGateway) -> None:
    """Nobody listens there; the client is told within the retry's moment."""
    gateway = await start_gateway(upstream_url="http://127.0.0.1:9/v1")

    response = await gateway.chat()

    assert response.status_code == 502
    assert "127.0.0.1" not in response.text


async def test_an_upstream_that_refuses_before_starting_is_asked_once_more(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A blip during a deployment never reaches the client."""
    upstream.will_answer(SEED, status=503)

    response = await gateway.chat()

    assert response.status_code == 200
    assert len(upstream.requests) == 2


async def test_retries_are_bounded(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """The SDK retries twice by itself; ours must not multiply with that."""
    for _ in range(5):
        upstream.will_answer(SEED, status=503)

    response = await gateway.chat()

    assert (response.status_code, len(upstream.requests)) == (503, 2)
    assert response.json()["error"]["code"] == "upstream_overloaded"


async def test_a_short_retry_after_is_waited_out(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """The upstream's wait is honoured, not guessed."""
    upstream.will_answer(SEED, status=429, headers={"retry-after": "0.3"})
    started_s = time.monotonic()

    response = await gateway.chat()

    assert response.status_code == 200
    assert time.monotonic() - started_s >= 0.3


DEADLINES = [
    pytest.param({"upstream_first_byte_timeout_s": 0.2}, id="first byte"),
    pytest.param({"upstream_total_timeout_s": 0.2}, id="total"),
]


@pytest.mark.parametrize("settings", DEADLINES)
async def test_a_stalled_upstream_is_a_504_and_told_to_stop(
    start_gateway: StartGateway, upstream: ScriptedUpstream, settings: dict[str, float]
) -> None:
    """No wait is without an end, and the upstream hears that we gave up."""
    gateway = await start_gateway(upstream_connect_timeout_s=0.1, **settings)
    upstream.will("hang")

    response = await gateway.chat()

    assert response.status_code == 504
    assert response.json()["error"]["code"] == "upstream_timeout"
    await upstream.saw_disconnect()


async def test_an_answer_larger_than_the_bound_is_a_502(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """An upstream without an end must not fill this process."""
    gateway = await start_gateway(upstream_max_answer_bytes=100_000)
    upstream.will(whole(json.dumps({"text": "x" * 200_000}).encode()))

    assert (await gateway.chat()).status_code == 502


async def test_a_full_pool_is_a_503_and_not_an_endless_queue(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A call waits for a connection only as long as for a connect."""
    gateway = await start_gateway(
        upstream_max_connections=1, upstream_connect_timeout_s=0.2
    )
    release = asyncio.Event()
    upstream.will(release, whole(b'{"text": "Hi"}'))

    first = asyncio.ensure_future(gateway.chat())
    await upstream.saw()
    second = await gateway.chat()
    release.set()

    assert second.status_code == 503
    assert second.json()["error"]["code"] == "upstream_overloaded"
    assert (await first).status_code == 200


async def test_connections_are_kept_alive(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """A handshake a request would double the latency."""
    for _ in range(5):
        await gateway.chat()

    assert upstream.open_connections == 1
