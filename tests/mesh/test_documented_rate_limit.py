"""The configurations in docs/rate-limit-service.md, with a real Envoy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest
from tests.servers.envoy import Json, envoy
from tests.servers.process import ReservedPort
from tests.upstream import ScriptedUpstream, whole

DOCUMENT: Final = Path(__file__).parents[2] / "docs/rate-limit-service.md"
PLAN: Final = (
    "plan: open\nquotas: [{of: requests, limit: 4, per: day},"
    " {of: tokens, limit: 100, per: day}]\n"
)


def documented() -> tuple[Json, Json]:
    """Envoy's configuration, and Istio's."""
    text = DOCUMENT.read_text()
    ours, istios = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(ours)["static_resources"], yaml.safe_load(istios)


def moved(config: Any, ports: dict[str, int]) -> Any:
    """The same on loopback; `ports` by the address it has in the document."""
    if isinstance(config, list):
        return [moved(each, ports) for each in config]
    if not isinstance(config, dict):
        return config
    if "port_value" in config:
        return {"address": "127.0.0.1", "port_value": ports[config["address"]]}
    return {name: moved(value, ports) for name, value in config.items()}


class Route:
    """What an application has before it."""

    def __init__(self, gateway: GatewayUnderTest, client: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.client = client

    async def get(self, path: str) -> int:
        answer = await self.client.get(path, headers=self.gateway.auth())
        return answer.status_code


@pytest.fixture
async def route(
    start_gateway: StartGateway, upstream: ScriptedUpstream, tmp_path: Path
) -> AsyncIterator[Route]:
    """The document's Envoy before what it limits."""
    limits, entry = ReservedPort(), ReservedPort()
    gateway = await start_gateway({"open": PLAN}, rate_limit_port=limits.number)
    ports = {
        "0.0.0.0": entry.number,  # noqa: S104 - where the document's Envoy listens
        "search": upstream.port,
        "gateway": limits.number,
    }
    config = moved(documented()[0], ports)
    async with (
        envoy(tmp_path, listeners=config["listeners"], clusters=config["clusters"]),
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{entry.number}", timeout=20
        ) as client,
    ):
        yield Route(gateway, client)
    limits.release()
    entry.release()


async def test_requests_pass_up_to_the_limit(route: Route) -> None:
    assert [200] * 4 + [429] == [await route.get("/search") for _ in range(5)]


async def test_nobody_passes_without_a_key(
    route: Route, upstream: ScriptedUpstream
) -> None:
    """Envoy would not even ask."""
    for path in ("/search", "/chat"):
        assert 401 == (await route.client.get(path)).status_code

    assert [] == upstream.requests


async def test_a_chat_spends_its_request_and_what_its_answer_used(
    route: Route, upstream: ScriptedUpstream
) -> None:
    """With requests left and no token, the next is refused and spends nothing."""
    upstream.will(whole(b"{}", 200, {"x-used-tokens": "130"}))

    assert 200 == await route.get("/chat")
    reported = 'llmtune_gateway_rate_limit_calls_total{outcome="reported"} 1.0'
    await route.gateway.until_metric(reported)
    assert 130 == (await route.gateway.used())["tokens-per-calendar-day"]

    assert 429 == await route.get("/chat")
    assert 1 == (await route.gateway.used())["requests-per-calendar-day"]
    assert 200 == await route.get("/search")


def test_istios_are_the_same() -> None:
    """But for the cluster's name."""
    ours, istios = documented()
    manager = ours["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    first, second = (each["patch"]["value"] for each in istios["spec"]["configPatches"])
    service = first["typed_config"]["rate_limit_service"]["grpc_service"]
    service["envoy_grpc"]["cluster_name"] = "ratelimit"

    assert manager["http_filters"][0] == first
    route = manager["route_config"]["virtual_hosts"][0]["routes"][0]
    assert route["typed_per_filter_config"] == second["typed_per_filter_config"]
