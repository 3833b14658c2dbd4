"""One line a request, from which a 429, a 502 or a leaver can be understood."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from typing import Any

import pytest

from gateway.json_lines import JsonFormatter
from policies.keyring import digest_of
from tests.conftest import StartGateway
from tests.gateway_under_test import MODEL, GatewayUnderTest
from tests.upstream import LAST_CHUNK, STREAM_HEAD, ScriptedUpstream, frame, whole


@pytest.fixture(autouse=True)
def _lines_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gateway.access")


def last_line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The newest access line, as it is printed."""
    records = [r for r in caplog.records if r.name == "gateway.access"]
    line: dict[str, Any] = json.loads(JsonFormatter().format(records[-1]))
    return line


async def test_a_head_is_told_as_what_it_was(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    await gateway.client.head("/livez")

    line = last_line(caplog)
    assert (line["method"], line["route"], line["status"]) == ("HEAD", "/livez", 200)


async def test_an_answer_is_told_with_who_what_and_how_much(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And with no word of what was said."""
    counts = {"input": 41, "output": 7}
    upstream.will_answer({"text": "a secret answer", "tokens": counts})
    response = await gateway.chat(messages=[{"role": "user", "content": "a question"}])

    line = last_line(caplog)
    assert line["request_id"] == response.headers["x-request-id"]
    assert (line["status"], line["outcome"]) == (200, "ok")
    assert (line["workspace"], line["plan"]) == ("ws-open", "open")
    assert (line["model"], line["upstream_route"]) == (MODEL, "inference")
    assert (line["input_tokens"], line["output_tokens"]) == (41, 7)
    assert line["client"] == "127.0.0.1"
    assert line["duration_ms"] > 0
    assert "secret answer" not in caplog.text
    assert "a question" not in caplog.text


async def test_a_rejection_names_the_limit(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    """Which limit bound is the first thing anybody asks about a 429."""
    plan = "plan: once\nquotas: [{of: requests, limit: 1, per: month}]"
    gateway = await start_gateway({"once": plan})
    await gateway.chat("once")
    await gateway.chat("once")

    line = last_line(caplog)
    assert (line["outcome"], line["error_code"]) == ("rejected", "insufficient_quota")
    assert line["limit"] == "requests-per-calendar-month"


FAULTS = [
    pytest.param((whole(b"not json"),), "bad_answer", id="not json"),
    pytest.param(("cut",), "hung_up", id="cut"),
    pytest.param((whole(b"{}", 302),), "redirect", id="redirect"),
    pytest.param((whole(b"{}", 401),), "own_key_refused", id="our key refused"),
    pytest.param((whole(b"{}", 500),), "failed", id="500"),
    pytest.param((whole(b"{}", 402),), "no_credits", id="402"),
]


@pytest.mark.parametrize(("script", "fault"), FAULTS)
async def test_an_upstream_failure_names_its_fault(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    script: Any,
    fault: str,
) -> None:
    """Clients see one code for all of them; operators see which it was."""
    upstream.will(*script)
    await gateway.chat()

    assert last_line(caplog)["fault"] == fault
    metrics = (await gateway.client.get("/metrics")).text
    if fault != "bad_answer":  # the exchange itself was fine
        assert f'upstream_attempts_total{{outcome="{fault}"}} 1.0' in metrics


async def test_a_leaver_is_told_with_what_it_has_spent(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where no answer had begun."""
    upstream.will("hang")
    request = asyncio.ensure_future(gateway.chat())
    await upstream.saw()
    request.cancel()
    with suppress(asyncio.CancelledError):
        await request
    await gateway.until_metric(
        'requests_total{outcome="client_gone",route="/v1/chat/completions"} 1.0'
    )

    line = last_line(caplog)
    assert (line["status"], line["outcome"]) == (499, "client_gone")
    assert line["input_tokens"] > 0


async def test_a_bad_request_names_the_parameter_and_a_refused_key_its_id(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    """The developer's ticket says neither."""
    await gateway.chat(temperature=9)
    assert last_line(caplog)["param"] == "temperature"

    wrong = {"authorization": "Bearer sk-no-key-of-ours"}
    await gateway.client.get("/v1/models", headers=wrong)
    assert last_line(caplog)["key_id"] == digest_of("sk-no-key-of-ours")[:8]


async def test_a_stream_is_told_with_its_first_token(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The figure users feel is in the line, not only in a histogram."""
    upstream.will_stream({"text": "Hi"})
    await gateway.chat(stream=True)

    line = last_line(caplog)
    assert line["is_stream"]
    assert 0 < line["first_token_ms"] <= line["duration_ms"]


async def test_the_first_token_is_not_a_ping(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The time to first token is for those who wait for text."""
    gateway = await start_gateway(stream_ping_interval_s=0.05)
    go_on = asyncio.Event()
    upstream.will(
        STREAM_HEAD, go_on, frame({"text": "Hi"}) + frame("[DONE]"), LAST_CHUNK
    )
    name = "llmtune_gateway_time_to_first_token_seconds_count"
    counted = f'{name}{{model="{MODEL}"}} 1.0'

    async with gateway.stream_chat() as stream:
        assert await stream.next_line() == ": ping"
        assert name not in (await gateway.client.get("/metrics")).text
        go_on.set()
        await stream.text_until("Hi")

    assert counted in (await gateway.client.get("/metrics")).text


async def test_nonsense_in_accept_gets_plain_metrics(gateway: GatewayUnderTest) -> None:
    """A scraper's typing error is not an incident of ours."""
    accept = {"accept": "application/openmetrics-text;version=abc"}

    assert (await gateway.client.get("/metrics", headers=accept)).status_code == 200
