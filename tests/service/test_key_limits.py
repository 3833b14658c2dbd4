"""A key with limits of its own, through a whole gateway: held to both, told of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from policies.keyring import digest_of
from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, chat_body, workspace_of

NARROW = {
    "concurrency": 1,
    "rates": [{"of": "requests", "limit": 2, "per": "hour"}],
    "quotas": [{"of": "tokens", "limit": 100_000, "per": "day"}],
}
WIDE = "plan: wide\nrates: [{of: requests, limit: 100, per: hour}]\nconcurrency: 50\n"
OTHER_KEY = "llmtune_gw_test_key_of_another_program"


async def start_narrowed(
    start_gateway: StartGateway, folder: Path, limits: dict[str, Any]
) -> GatewayUnderTest:
    """A gateway with two keys in one workspace, the first narrowed by these limits."""
    owner = {"workspace": workspace_of("wide"), "plan": "wide"}
    first = "llmtune_gw_test_key_of_wide"
    keys_file = folder / "narrowed.yaml"
    records = [
        {"sha256": digest_of(first), **owner, "limits": limits},
        {"sha256": digest_of(OTHER_KEY), **owner},
    ]
    keys_file.write_bytes(msgspec.yaml.encode({"keys": records}))
    return await start_gateway({"wide": WIDE}, keys_file=keys_file)


async def preview(gateway: GatewayUnderTest) -> Any:
    """What a chat with the narrowed key would meet."""
    return (await gateway.post("/v1/limits/preview", "wide", **chat_body())).json()


async def test_a_keys_own_limit_binds_before_its_plans(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """And says that it is the key's; the workspace's other keys go on."""
    gateway = await start_narrowed(start_gateway, tmp_path, NARROW)
    for _ in range(2):
        await gateway.chat("wide")

    said = await preview(gateway)
    refused = await gateway.chat("wide")
    other = await gateway.client.post(
        "/v1/chat/completions",
        json=chat_body(),
        headers={"authorization": f"Bearer {OTHER_KEY}"},
    )

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (429, "rate_limit_exceeded")
    assert error["details"]["dimension"] == "key-requests-per-hour"
    assert "key-requests-per-hour of this API key" in error["message"]
    assert said["binding"]["dimension"] == "key-requests-per-hour"
    assert said["binding"]["whose"] == "key"
    assert other.status_code == 200


async def test_a_keys_limits_are_told_after_its_workspaces(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """In the body and in the headers; OpenAI's have the tighter of the two."""
    gateway = await start_narrowed(start_gateway, tmp_path, NARROW)
    await gateway.chat("wide")

    response = await gateway.get("/v1/limits", "wide")

    said = response.json()
    of_key = {each["dimension"]: each["whose"] for each in said["limits"]}
    assert list(of_key.items()) == [
        ("requests-per-hour", "workspace"),
        ("concurrency", "workspace"),
        ("key-requests-per-hour", "key"),
        ("key-tokens-per-calendar-day", "key"),
        ("key-concurrency", "key"),
    ]
    assert said["binds_next"] == "key-requests-per-hour"
    assert response.headers["x-ratelimit-limit-requests"] == "2"
    assert response.headers["x-ratelimit-remaining-requests"] == "1"
    assert '"key-requests-per-hour";r=1;t=' in response.headers["ratelimit"]
    assert '"key-concurrency";q=1' in response.headers["ratelimit-policy"]


async def test_every_answer_tells_a_keys_limits(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """Also one that was never admitted."""
    gateway = await start_narrowed(start_gateway, tmp_path, NARROW)

    answered = await gateway.chat("wide")
    mistaken = await gateway.chat("wide", temperature=9)

    assert (answered.status_code, mistaken.status_code) == (200, 400)
    assert '"key-requests-per-hour";r=1' in answered.headers["ratelimit"]
    assert '"key-requests-per-hour";r=1' in mistaken.headers["ratelimit"]


async def test_a_guess_of_ours_fits_a_keys_own_bucket(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    """A caller that asked for no length is not told that its request is too large."""
    limits = {"rates": [{"of": "tokens", "limit": 300, "per": "hour"}]}
    gateway = await start_narrowed(start_gateway, tmp_path, limits)

    said = await preview(gateway)

    assert (said["would_pass"], said["reserve"]["tokens"]) == (True, 300)
