"""Real Envoys that ask the gateways' rate-limit service, on routes of others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest, workspace_of
from tests.servers.envoy import Json, cluster, envoy, listener, route_to, typed
from tests.servers.process import ReservedPort
from tests.servers.redis_server import RedisServer
from tests.upstream import ScriptedUpstream, whole

REQUESTS: Final = 100
TOKENS: Final = 3000
EACH: Final = 70
ASKED: Final = 150
AT_ONCE: Final = 25
# Days, so that no refill blurs the counts.
PLAN: Final = (
    f"plan: open\nquotas: [{{of: requests, limit: {REQUESTS}, per: day}},"
    f" {{of: tokens, limit: {TOKENS}, per: day}}]\n"
)


class Mesh:
    """Two gateways on one Redis, and two Envoys that ask either of them."""

    def __init__(
        self, gateways: list[GatewayUnderTest], clients: list[httpx.AsyncClient]
    ) -> None:
        self.gateways = gateways
        self.clients = clients

    async def used(self, dimension: str) -> int:
        return (await self.gateways[0].used())[f"{dimension}-per-calendar-day"]

    async def statuses(self, path: str, **headers: str) -> Counter[int]:
        """Of many requests at once, through both Envoys."""
        room = asyncio.Semaphore(AT_ONCE)

        async def ask(client: httpx.AsyncClient) -> int:
            async with room:
                return (await client.get(path, headers=headers)).status_code

        asking = [ask(client) for client in self.clients for _ in range(ASKED)]
        return Counter(await asyncio.gather(*asking))


@pytest.fixture
async def mesh(
    start_gateway: StartGateway, upstream: ScriptedUpstream, tmp_path: Path
) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as held:
        server = await held.enter_async_context(RedisServer())
        ports = [ReservedPort() for _ in range(4)]
        for port in ports:
            held.callback(port.release)
        numbers = [port.number for port in ports]
        gateways = [
            await start_gateway(
                {"open": PLAN},
                store_url=server.url,
                # A slow machine is no outage.
                store_timeout_s=2.0,
                rate_limit_port=number,
            )
            for number in numbers[:2]
        ]
        for number in numbers[2:]:
            await held.enter_async_context(
                envoy(
                    tmp_path,
                    listeners=[limiting(number)],
                    clusters=[
                        cluster("upstream", upstream.port),
                        cluster("ratelimit", *numbers[:2], protocol="http2"),
                    ],
                )
            )
        clients = [
            await held.enter_async_context(
                httpx.AsyncClient(base_url=f"http://127.0.0.1:{number}", timeout=20)
            )
            for number in numbers[2:]
        ]
        yield Mesh(gateways, clients)


def limiting(port: int, *, denies: bool = True) -> Json:
    """A listener whose routes are limited; `denies` is for where it cannot ask."""
    named = [
        generic("workspace", workspace_of("open")),
        generic("plan", "open"),
    ]
    by_key = {
        "request_headers": {
            "header_name": "authorization",
            "descriptor_key": "api_key",
        }
    }
    of_request = {"format": "%REQ(x-tokens)%"}
    return listener(
        "in",
        port,
        route("/key", {"actions": [by_key]}),
        route("/v1", {"actions": [by_key]}),
        route(
            "/tokens",
            {"actions": [*named, generic("of", "tokens")], "hits_addend": of_request},
        ),
        route(
            "/answered",
            # Is anything left?
            {
                "actions": [*named, generic("of", "tokens")],
                "hits_addend": {"number": 0},
            },
            # So much was used.
            {
                "actions": [
                    *named,
                    generic("of", "tokens"),
                    generic("report", "true"),
                ],
                "hits_addend": {"format": "%RESP(x-used)%"},
                "apply_on_stream_done": True,
            },
        ),
        filters=[
            typed(
                "envoy.filters.http.ratelimit",
                "filters.http.ratelimit.v3.RateLimit",
                domain="llmtune",
                timeout="2s",
                failure_mode_deny=denies,
                rate_limit_service={
                    "transport_api_version": "V3",
                    "grpc_service": {"envoy_grpc": {"cluster_name": "ratelimit"}},
                },
            )
        ],
    )


def generic(key: str, value: str) -> Json:
    return {"generic_key": {"descriptor_key": key, "descriptor_value": value}}


def route(prefix: str, *limits: Json) -> Json:
    """A route's own limits: of those at its action Envoy takes no `hits_addend`."""
    name, kind = "envoy.filters.http.ratelimit", "filters.http.ratelimit.v3"
    own = typed(name, f"{kind}.RateLimitPerRoute", rate_limits=list(limits))
    config = {name: own["typed_config"]}
    return {**route_to("upstream", prefix), "typed_per_filter_config": config}


async def test_requests_are_counted_exactly_by_two_envoys_and_two_gateways(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    """Three hundred at once; a hundred pass, and reach what is behind."""
    authorization = mesh.gateways[0].auth()["authorization"]

    statuses = await mesh.statuses("/key", authorization=authorization)

    assert {200: REQUESTS, 429: 2 * ASKED - REQUESTS} == statuses
    assert REQUESTS == len(upstream.requests)
    assert REQUESTS == await mesh.used("requests")


async def test_tokens_are_counted_exactly(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    """As many as fit whole, and no request."""
    fits = TOKENS // EACH

    statuses = await mesh.statuses("/tokens", **{"x-tokens": str(EACH)})

    assert {200: fits, 429: 2 * ASKED - fits} == statuses
    assert fits * EACH == await mesh.used("tokens")
    assert 0 == await mesh.used("requests")


async def test_what_an_answer_used_is_charged_after_it(
    mesh: Mesh, upstream: ScriptedUpstream
) -> None:
    """More than was left, once; then nothing passes."""
    for used, total in ((TOKENS - 1, TOKENS - 1), (500, TOKENS + 499)):
        upstream.will(whole(b"{}", 200, {"x-used": str(used)}))
        assert 200 == (await mesh.clients[0].get("/answered")).status_code
        await until_used(mesh, total)

    assert 429 == (await mesh.clients[1].get("/answered")).status_code


async def until_used(mesh: Mesh, tokens: int) -> None:
    """Wait until exactly so many are charged; each look is a call."""
    async with asyncio.timeout(10):
        while await mesh.used("tokens") != tokens:
            pass


async def test_the_refusal_comes_through_as_the_apis(mesh: Mesh) -> None:
    """Envelope, code and headers, which OpenAI's SDKs read."""
    authorization = mesh.gateways[0].auth()["authorization"]
    await mesh.statuses("/key", authorization=authorization)

    answer = await mesh.clients[0].get("/key", headers={"authorization": authorization})
    of_api = await mesh.gateways[0].chat(max_tokens=1)

    assert of_api.json()["error"].keys() == answer.json()["error"].keys()
    assert "insufficient_quota" == answer.json()["error"]["code"]
    same = ("content-type", "x-should-retry", "x-ratelimit-remaining-requests")
    assert [of_api.headers[name] for name in same] == [
        answer.headers[name] for name in same
    ]
    assert 1 == len(answer.headers.get_list("content-type"))


async def test_a_gateway_that_goes_is_not_missed(mesh: Mesh) -> None:
    """The other one decides, on the same counts."""
    authorization = mesh.gateways[0].auth()["authorization"]
    await mesh.gateways[1].server.drain()

    statuses = await mesh.statuses("/key", authorization=authorization)

    assert REQUESTS == statuses[200]


async def test_a_stranger_does_not_pass(mesh: Mesh) -> None:
    statuses = await mesh.statuses("/key", authorization="Bearer nobody")

    assert {429: 2 * ASKED} == statuses


async def test_nobody_who_decides_is_the_meshs_decision(mesh: Mesh) -> None:
    """Here: denied."""
    for gateway in mesh.gateways:
        await gateway.server.drain()

    answer = await mesh.clients[0].get("/tokens", headers={"x-tokens": "1"})

    assert 500 == answer.status_code


@pytest.mark.parametrize(("denies", "status"), [(True, 500), (False, 200)])
async def test_while_the_store_is_away_a_closed_plan_is_the_meshs_decision(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    denies: bool,
    status: int,
) -> None:
    """An error and not a refusal: the route's owner says what becomes of it."""
    limits, entry = ReservedPort(), ReservedPort()
    async with RedisServer() as server:
        gateway = await start_gateway(
            {"open": f"{PLAN}on_store_failure: closed\n"},
            store_url=server.url,
            rate_limit_port=limits.number,
        )
        server.kill()
        async with (
            envoy(
                tmp_path,
                listeners=[limiting(entry.number, denies=denies)],
                clusters=[
                    cluster("upstream", upstream.port),
                    cluster("ratelimit", limits.number, protocol="http2"),
                ],
            ),
            httpx.AsyncClient(timeout=20) as client,
        ):
            url = f"http://127.0.0.1:{entry.number}/key"
            answer = await client.get(url, headers=gateway.auth())
    limits.release()
    entry.release()

    assert status == answer.status_code
    counted = 'llmtune_gateway_rate_limit_calls_total{outcome="unavailable"} 1.0'
    await gateway.until_metric(counted)
