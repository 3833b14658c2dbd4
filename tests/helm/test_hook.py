"""What `helm test` runs, against a real gateway."""

from __future__ import annotations

import asyncio
import os
import sys

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest
from tests.helm.rendering import NAME, rendered


async def run_hook(gateway_url: str, key: str) -> tuple[int, str]:
    """The pod's own command, with this key; its exit code and what it prints."""
    container = rendered().of("Pod", f"{NAME}-test-completion")["spec"]["containers"][0]
    assert ["python", "-c"] == container["command"]
    told = {each["name"]: each.get("value", "") for each in container["env"]}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", *container["args"]),
        env={**os.environ, **told, "BASE_URL": f"{gateway_url}/v1", "API_KEY": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, output.decode()


async def test_it_makes_a_real_completion(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(models=("meta-llama/Llama-3.1-8B-Instruct",))

    code, output = await run_hook(gateway.url, gateway.key())

    assert 0 == code, output
    assert output.strip()


async def test_it_says_what_is_missing(gateway: GatewayUnderTest) -> None:
    """Where LLMTune lists no model, nor does the operator."""
    code, output = await run_hook(gateway.url, gateway.key())

    assert 1 == code
    assert "GATEWAY_MODELS" in output


async def test_it_says_why_it_fails(gateway: GatewayUnderTest) -> None:
    """In the log that `helm test --logs` shows."""
    code, output = await run_hook(gateway.url, "nobodys")

    assert 1 == code
    assert "401" in output
    assert "invalid_api_key" in output
