"""
Real Envoys before and behind the gateway, over HTTP/1.1 and HTTP/2.

Streams flow, a client that leaves is noticed through every proxy, nobody multiplies
retries, and a trace goes through all of them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import httpx
import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import (
    MODEL,
    GatewayUnderTest,
    OpenStream,
    chat_body,
    until,
)
from tests.servers.envoy import (
    Envoy,
    Json,
    Protocol,
    cluster,
    envoy,
    listener,
    route_to,
)
from tests.servers.otlp import Collector, otlp_over_http
from tests.servers.process import ReservedPort
from tests.upstream import (
    LAST_CHUNK,
    STREAM_HEAD,
    ScriptedUpstream,
    frame,
    whole,
)

RETRYING: Final[Json] = {
    "retry_policy": {
        "retry_on": "5xx,gateway-error,reset,connect-failure,retriable-status-codes",
        "retriable_status_codes": [409, 429, 503],
        "num_retries": 2,
    }
}
# As sidecars see their own pod: its application may set what proxies act on.
INTERNAL: Final[Json] = {
    "use_remote_address": True,
    "internal_address_config": {
        "cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]
    },
}
PROTOCOLS: Final[tuple[Protocol, ...]] = ("http1", "http2")
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER: Final = "00f067aa0ba902b7"


class Mesh:
    """client -> Envoy -> gateway -> Envoy -> upstream."""

    def __init__(
        self, gateway: GatewayUnderTest, proxy: Envoy, client: httpx.AsyncClient
    ) -> None:
        self.gateway = gateway
        self.proxy = proxy
        self.client = client

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[OpenStream]:
        async with self.client.stream(
            "POST",
            "/v1/chat/completions",
            json=chat_body(stream=True),
            headers=self.gateway.auth(),
        ) as response:
            yield OpenStream(response)

    async def ask(self, **headers: str) -> httpx.Response:
        return await self.client.post(
            "/v1/chat/completions",
            json=chat_body(),
            headers=self.gateway.auth() | headers,
        )


StartMesh: TypeAlias = Callable[..., Awaitable[Mesh]]


@pytest.fixture
async def start_mesh(
    start_gateway: StartGateway, upstream: ScriptedUpstream, tmp_path: Path
) -> AsyncIterator[StartMesh]:
    """
    Starts a mesh whose clients and proxies speak this protocol with each other.

    Behind the gateway stand two proxies, as two sidecars do, since the first speaks
    HTTP/2 to the second; the upstream itself speaks HTTP/1.1.
    """
    async with AsyncExitStack() as held:

        async def start(
            protocol: Protocol = "http1",
            plans: dict[str, str] | None = None,
            *,
            manager: Json | None = None,
            more_clusters: tuple[Json, ...] = (),
            **settings: Any,
        ) -> Mesh:
            ports = [ReservedPort() for _ in range(3)]
            for port in ports:
                held.callback(port.release)
            ingress, egress, remote = (port.number for port in ports)
            gateway = await start_gateway(
                plans, upstream_url=f"http://127.0.0.1:{egress}/v1", **settings
            )
            more = INTERNAL | (manager or {})
            to = route_to
            proxy = await held.enter_async_context(
                envoy(
                    tmp_path,
                    listeners=[
                        listener("in", ingress, to("gateway", **RETRYING), **more),
                        listener("out", egress, to("remote", **RETRYING), **more),
                        listener("far", remote, to("upstream")),
                    ],
                    clusters=[
                        cluster("gateway", gateway.address.port),
                        cluster("remote", remote, protocol=protocol),
                        cluster("upstream", upstream.port),
                        *more_clusters,
                    ],
                )
            )
            client = await held.enter_async_context(
                httpx.AsyncClient(
                    base_url=f"http://127.0.0.1:{ingress}",
                    http1=protocol == "http1",
                    http2=protocol == "http2",
                    timeout=20,
                )
            )
            return Mesh(gateway, proxy, client)

        yield start


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_each_event_passes_before_the_next_is_made(
    start_mesh: StartMesh, upstream: ScriptedUpstream, protocol: Protocol
) -> None:
    """No proxy waits for more than it has."""
    mesh = await start_mesh(protocol)
    seen = [asyncio.Event() for _ in range(3)]
    steps = [step for n in range(3) for step in (frame({"text": f"w{n}"}), seen[n])]
    upstream.will(STREAM_HEAD, *steps, frame("[DONE]"), LAST_CHUNK)

    async with mesh.stream() as stream:
        for n in range(3):
            await stream.text_until(f"w{n}")
            seen[n].set()
        while await stream.next_event() != "[DONE]":
            pass

    spoken = stream.response.http_version
    assert {"http1": "HTTP/1.1", "http2": "HTTP/2"}[protocol] == spoken


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("is_stream", [True, False], ids=["streamed", "whole"])
async def test_a_client_that_leaves_is_noticed_through_both_proxies(
    start_mesh: StartMesh,
    upstream: ScriptedUpstream,
    protocol: Protocol,
    *,
    is_stream: bool,
) -> None:
    """Its generation ends upstream, and its lease is free."""
    mesh = await start_mesh(protocol)
    if is_stream:
        upstream.will(STREAM_HEAD, frame({"text": "Hel"}), "hang")
        async with mesh.stream() as stream:
            await stream.text_until("Hel")
            assert 1 == mesh.gateway.held()
    else:
        upstream.will("hang")
        asking = asyncio.ensure_future(mesh.ask())
        await upstream.saw()
        asking.cancel()
        await asyncio.wait([asking])
    # httpx leaves an HTTP/2 stream without a word until its connection closes.
    await mesh.client.aclose()

    await upstream.saw_disconnect()
    await mesh.gateway.until_free()
    await mesh.gateway.until_present(0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_the_gateway_tried_twice_no_proxy_tries_again(
    start_mesh: StartMesh, upstream: ScriptedUpstream, protocol: Protocol
) -> None:
    """Both proxies would retry twice each: 18 calls of one that fails."""
    mesh = await start_mesh(protocol)
    for _ in range(18):
        upstream.will(whole(b'{"error":"overloaded"}', 503, {}))

    answer = await mesh.ask()

    assert (503, "upstream_overloaded") == (
        answer.status_code,
        answer.json()["error"]["code"],
    )
    assert 2 == len(upstream.requests)


async def test_a_limit_that_is_reached_is_asked_once(
    start_mesh: StartMesh, upstream: ScriptedUpstream
) -> None:
    """A proxy that retries 429s would count as three callers."""
    small = "plan: small\nquotas: [{of: requests, limit: 1, per: day}]\n"
    mesh = await start_mesh(plans={"small": small})
    headers = mesh.gateway.auth("small")

    answers = [await mesh.ask(**headers) for _ in range(2)]

    assert [200, 429] == [each.status_code for each in answers]
    stats = await mesh.proxy.stats("cluster.gateway.upstream_rq")
    assert 2 == stats["cluster.gateway.upstream_rq_total"]
    assert 1 == len(upstream.requests)


async def test_a_replica_that_goes_is_tried_elsewhere(start_mesh: StartMesh) -> None:
    """That a proxy does retry is what it is for."""
    mesh = await start_mesh()
    mesh.gateway.gateway.attendance.end_all()

    answer = await mesh.ask()

    stats = await mesh.proxy.stats("cluster.gateway.upstream_rq_retry")
    assert (503, "shutting_down") == (
        answer.status_code,
        answer.json()["error"]["code"],
    )
    assert 2 == stats["cluster.gateway.upstream_rq_retry"]


async def test_one_trace_goes_through_every_proxy(
    start_mesh: StartMesh,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Caller, proxy, gateway, attempt, proxy, upstream: each the parent of the next."""
    async with otlp_over_http() as collector:
        for name, value in exporting_to(collector).items():
            # The SDK reads the process's own.
            monkeypatch.setenv(name, value)
        mesh = await start_mesh(
            manager={"tracing": traced_by_envoy()},
            more_clusters=(cluster("otlp", port_of(collector)),),
            environment=os.environ,
        )

        await mesh.ask(traceparent=f"00-{TRACE}-{CALLER}-01")
        # The last proxy does not trace.
        await until(lambda: len(collector.spans) >= 5, "all spans")

    spans = {span.span_id: span for span in collector.spans}
    chain, parent = [], upstream.last.headers["traceparent"].split("-")[2]
    while parent in spans:
        span = spans[parent]
        chain.append(span.attributes.get("component", span.name))
        parent = span.parent_id
    assert CALLER == parent
    server = "POST /v1/chat/completions"
    assert ["proxy", f"chat {MODEL}", server, "proxy"] == chain
    assert {TRACE} == {span.trace_id for span in collector.spans}


def exporting_to(collector: Collector) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }


def port_of(collector: Collector) -> int:
    port = httpx.URL(collector.endpoint).port
    assert port is not None
    return port


def traced_by_envoy() -> Json:
    """As Istio configures it: every request, to the collector of the gateway."""
    config = "type.googleapis.com/envoy.config.trace.v3"
    return {
        "random_sampling": {"value": 100},
        "spawn_upstream_span": False,
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": f"{config}.OpenTelemetryConfig",
                "service_name": "mesh",
                "http_service": {
                    "http_uri": {
                        "uri": "http://otlp/v1/traces",
                        "cluster": "otlp",
                        "timeout": "2s",
                    }
                },
            },
        },
    }
