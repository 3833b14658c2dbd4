"""No secret and no word of a conversation is in what operators are shown."""

from __future__ import annotations

import base64
import json
import logging
from typing import Final

import pytest

from gateway.json_lines import JsonFormatter
from gateway.secret import Secret
from tests.conftest import StartGateway
from tests.gateway_under_test import UPSTREAM_KEY, GatewayUnderTest
from tests.upstream import ScriptedUpstream, whole

PROMPT: Final = "the-secret-question-of-mine"
ANSWER: Final = "the-secret-answer-of-theirs"
BROUGHT: Final = "sk-a-key-that-the-caller-has-brought-0123456789"
WRONG: Final = "llmtune_gw_a-key-that-opens-nothing"
STORE_PASSWORD: Final = "hunter2-of-the-store"
SEAL: Final = base64.b64encode(bytes(range(32))).decode()
MESSAGES: Final = [{"role": "user", "content": PROMPT}]


async def everything_that_may_happen(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream
) -> None:
    """Answers, streams, refusals and failures, each with secrets where they can be."""
    upstream.will_answer({"text": ANSWER, "tokens": 12})
    await gateway.chat(messages=MESSAGES)
    upstream.will_stream({"text": ANSWER})
    await gateway.chat(messages=MESSAGES, stream=True)
    upstream.will_stream({"text": ANSWER}, then="cut")
    await gateway.chat(messages=MESSAGES, stream=True)
    # An upstream that quotes what it was sent.
    quoted = json.dumps({"error": f"bad key {UPSTREAM_KEY} for {PROMPT}"}).encode()
    for status in (400, 401, 500):
        upstream.will(whole(quoted, status))
        await gateway.chat(messages=MESSAGES)
    for body in (b'{"model": "%b"' % PROMPT.encode(), PROMPT.encode()):
        await gateway.post_raw(body)
    await gateway.chat(messages=[{"role": PROMPT, "content": PROMPT}])
    for key in (WRONG, BROUGHT):
        headers = {"authorization": f"Bearer {key}", "cookie": f"session={key}"}
        await gateway.client.get("/v1/models", headers=headers)
        await gateway.client.get(f"/v1/limits?api_key={key}", headers=headers)
    headers = gateway.auth() | {"idempotency-key": "once", "baggage": f"q={PROMPT}"}
    for _ in range(2):
        upstream.will_answer({"text": ANSWER, "tokens": 12})
        asked = {"model": "m", "messages": MESSAGES}
        await gateway.client.post("/v1/chat/completions", json=asked, headers=headers)


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
async def test_nothing_secret_is_in_logs_or_metrics(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    accept: str,
) -> None:
    """At the level that says most, and of libraries as well as of us."""
    caplog.set_level(logging.DEBUG)
    gateway = await start_gateway(
        default_plan="open",
        # Nothing listens there, so the store's failures are logged too.
        store_url=f"redis://user:{STORE_PASSWORD}@127.0.0.1:1/0",
        replay_sealing_keys=Secret(f"one:{SEAL}"),
    )
    await everything_that_may_happen(gateway, upstream)
    metrics = await gateway.client.get("/metrics", headers={"accept": accept})
    ready = await gateway.client.get("/readyz")

    format_line = JsonFormatter().format
    # This test's own client tells all at that level; `configure_logging` forbids it.
    own = [r for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))]
    shown = "\n".join(map(format_line, own))
    shown += metrics.text + ready.text
    assert "gateway.access" in shown
    # Otherwise nothing was looked for.
    assert "req_" in shown
    for secret in (
        *(PROMPT, ANSWER, BROUGHT, WRONG, UPSTREAM_KEY, STORE_PASSWORD, SEAL),
        *gateway.keys.values(),
    ):
        assert secret not in shown
