"""Who may call: known keys, brought keys, and nobody else."""

from __future__ import annotations

import logging

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body
from tests.upstream import ScriptedUpstream

WRONG = [
    pytest.param(None, id="no header"),
    pytest.param("", id="empty"),
    pytest.param("Bearer", id="no key"),
    pytest.param("Bearer wrong", id="unknown"),
    pytest.param("Bearer " + "x" * 5000, id="absurdly long"),
    pytest.param("Basic dXNlcjpwYXNz", id="another scheme"),
    pytest.param("Bearer caf\u00e9", id="not ascii"),
    pytest.param("Bearer two words", id="two words"),
]


@pytest.mark.parametrize("header", WRONG)
async def test_a_wrong_key_is_401_before_the_body_is_read(
    gateway: GatewayUnderTest, upstream: ScriptedUpstream, header: str | None
) -> None:
    """The answer names no part of the key, and is OpenAI's."""
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]

    response = await gateway.client.post(
        "/v1/chat/completions", content=b"not json", headers=headers
    )

    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (401, "invalid_api_key")
    assert "wrong" not in error["message"]
    assert upstream.requests == []


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "{}"])
async def test_a_known_key_is_taken_in_every_form(
    gateway: GatewayUnderTest, form: str
) -> None:
    """LLMTune also takes the bare key."""
    headers = {"authorization": form.format(gateway.key())}

    response = await gateway.client.get("/v1/models", headers=headers)

    assert response.status_code == 200


async def test_a_brought_key_goes_upstream_itself(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """With a default plan an unknown key is let in, and never upgraded to ours."""
    gateway = await start_gateway(default_plan="open")

    headers = {"authorization": "Bearer sk_live_theirs"}
    response = await gateway.client.post(
        "/v1/chat/completions", json=chat_body(), headers=headers
    )

    assert response.status_code == 200
    assert upstream.last.headers["authorization"] == "Bearer sk_live_theirs"


async def test_a_brought_key_that_upstream_refuses_is_refused_here_for_a_while(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A guesser's second try costs the upstream nothing."""
    gateway = await start_gateway(default_plan="open")
    upstream.will_answer({"error": {"message": "no", "code": "UNAUTHORIZED"}}, 401)
    headers = {"authorization": "Bearer sk_live_guess"}

    answers = [
        await gateway.client.post(
            "/v1/chat/completions", json=chat_body(), headers=headers
        )
        for _ in range(3)
    ]

    assert [401, 401, 401] == [answer.status_code for answer in answers]
    assert len(upstream.requests) == 1


async def test_an_expired_key_is_refused_even_where_keys_may_be_brought(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """An expired key does not come back through the other door."""
    gateway = await start_gateway(default_plan="open", reload_interval_s=3600)
    keys_file = gateway.gateway.settings.keys_file
    assert keys_file is not None
    text = keys_file.read_text()
    keys_file.write_text(
        text.replace("plan: open", "plan: open\n  expires_at: 2020-01-01T00:00:00Z")
    )
    await gateway.gateway.files.reload_if_changed()

    assert (await gateway.chat()).status_code == 401
    assert upstream.requests == []


async def test_keys_reach_neither_log_nor_metrics_nor_errors(
    gateway: GatewayUnderTest,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the caller's key nor the gateway's own, not even in part."""
    caplog.set_level(logging.DEBUG)
    upstream.will_answer({"error": {"message": "no", "code": "NO"}}, 500)

    refused = await gateway.client.get(
        "/v1/models", headers={"authorization": "Bearer sk-secret-wrong"}
    )
    failed = await gateway.chat()
    metrics = await gateway.client.get("/metrics")

    seen = caplog.text + refused.text + failed.text + metrics.text
    assert "request" in caplog.text
    for secret in ("sk-secret", "secret-wrong", gateway.key()[11:], "sk_live_the"):
        assert secret not in seen
