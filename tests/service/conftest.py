"""Gateways that are traced, and who collects their spans."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest
from tests.servers.otlp import Collector, otlp_over_http
from tests.traced import StartTraced


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with otlp_over_http() as collector:
        yield collector


@pytest.fixture
def start_traced(
    # Before the gateways, so that it is there for their last spans.
    collector: Collector,
    start_gateway: StartGateway,
    monkeypatch: pytest.MonkeyPatch,
) -> StartTraced:
    """Starts gateways that export over HTTP, with these variables besides."""

    async def start(
        plans: dict[str, str] | None = None, **variables: str
    ) -> GatewayUnderTest:
        told = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_BSP_SCHEDULE_DELAY": "20",
            **variables,
        }
        for name, value in told.items():
            # The SDK reads the process's own.
            monkeypatch.setenv(name, value)
        return await start_gateway(plans, environment=os.environ)

    return start
