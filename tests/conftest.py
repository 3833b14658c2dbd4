"""What every test may ask for: a scripted upstream and gateways in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.gateway_under_test import GatewayUnderTest, gateway_under_test
from tests.upstream import ScriptedUpstream, scripted_upstream

pytest_plugins = ["tests.redis_fixtures"]

StartGateway: TypeAlias = Callable[..., Awaitable[GatewayUnderTest]]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with scripted_upstream() as upstream:
        yield upstream


@pytest.fixture
async def start_gateway(
    upstream: ScriptedUpstream, tmp_path: Path
) -> AsyncIterator[StartGateway]:
    """Starts gateways with the plans and settings a test needs."""
    async with AsyncExitStack() as running:

        async def start(
            plans: dict[str, str] | None = None, **settings: Any
        ) -> GatewayUnderTest:
            settings = {"upstream_url": upstream.url, **settings}
            return await running.enter_async_context(
                gateway_under_test(tmp_path, plans, **settings)
            )

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> GatewayUnderTest:
    """A gateway with default settings and one unlimited plan, `open`."""
    return await start_gateway()
