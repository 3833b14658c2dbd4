"""What tests of traces share: a caller's headers, a request, its spans' arrival."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from tests.gateway_under_test import GatewayUnderTest, chat_body, until
from tests.servers.otlp import Collector

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
SAMPLED: Final = f"00-{TRACE}-{PARENT}-01"
UNSAMPLED: Final = f"00-{TRACE}-{PARENT}-00"

StartTraced: TypeAlias = Callable[..., Awaitable[GatewayUnderTest]]


async def ask(gateway: GatewayUnderTest, **headers: str) -> Any:
    sent = gateway.auth() | {name.replace("_", "-"): v for name, v in headers.items()}
    return await gateway.client.post(
        "/v1/chat/completions", json=chat_body(max_tokens=9), headers=sent
    )


async def received(collector: Collector, servers: int = 1) -> None:
    """Wait until so many requests' spans have arrived; a request's come together."""
    await until(lambda: len(collector.of_kind("SERVER")) >= servers, "server spans")
