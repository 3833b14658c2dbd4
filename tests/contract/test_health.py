"""`llmtune-gateway health`: what an exec probe asks."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import pytest

from gateway.addresses import Address
from gateway.app import Gateway
from gateway.server import running_gateway
from gateway.settings import Settings
from tests.conftest import StartGateway
from tests.gateway_under_test import GatewayUnderTest
from tests.servers.process import ReservedPort


async def health(*arguments: str) -> tuple[int, str]:
    """The real command's exit code and what it complains of."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "health", *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode or 0, complaint.decode().strip()


async def test_a_live_gateway_is_healthy(gateway: GatewayUnderTest) -> None:
    port = f"{gateway.address.port}"

    assert (0, "") == await health("--port", port)
    assert (0, "") == await health("--port", port, "--ready")


async def test_a_draining_one_lives_and_is_not_ready(gateway: GatewayUnderTest) -> None:
    """A restart would cut what it still serves."""
    port = f"{gateway.address.port}"
    gateway.gateway.is_draining = True

    assert (0, "") == await health("--port", port)
    code, complaint = await health("--port", port, "--ready")
    assert 1 == code
    assert complaint.endswith(f"127.0.0.1:{port}/readyz answers 503")


async def test_one_on_a_unix_socket_is_asked_there(tmp_path: Path) -> None:
    """The classic sidecar's."""
    uds = tmp_path / "gw.sock"
    async with running_gateway(Gateway(Settings()), Address(uds=uds)):
        assert (0, "") == await health("--uds", str(uds))
    code, complaint = await health("--uds", str(uds))
    assert 1 == code
    assert str(uds) in complaint


async def test_nobody_there_is_a_failure_in_one_line() -> None:
    port = ReservedPort()

    code, complaint = await health("--port", f"{port.number}")

    port.release()
    assert 1 == code
    assert complaint.startswith(f"llmtune-gateway: 127.0.0.1:{port.number}: ")
    assert 1 == len(complaint.splitlines())


async def test_one_that_says_nothing_is_given_up() -> None:
    """A probe that hangs is no answer either."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        code, complaint = await health("--port", f"{port}")

    assert 1 == code
    assert "timed out" in complaint


# What a command does not need, it does not import: that is half of its start.
NEEDED_LATE = {"litestar", "redis", "uvicorn", "click", "rich", "grpc", "cryptography"}
LOADED = (
    "import sys; print(*{name.partition('.')[0] for name, module in"
    " sys.modules.items() if module is not None})"
)


@pytest.mark.parametrize(
    ("imported", "kept_out"),
    [
        ("gateway.cli, gateway.health", NEEDED_LATE | {"httpx", "msgspec", "policies"}),
        ("gateway.cli, gateway.server", NEEDED_LATE),
    ],
    ids=["health", "serve"],
)
async def test_a_start_imports_no_more_than_it_needs(
    imported: str, kept_out: set[str]
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"import {imported}; {LOADED}"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)

    assert set() == kept_out & set(output.decode().split())


async def test_a_path_is_found_by_the_router_that_was_made_late(
    start_gateway: StartGateway,
) -> None:
    """Also by many at once, of whom the first has left."""
    gateway = await start_gateway()
    first = asyncio.ensure_future(gateway.get("/v1/models/none"))
    others = [asyncio.ensure_future(gateway.get("/nowhere")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()

    codes = [(await each).json()["error"]["code"] for each in others]

    assert ["route_not_found"] * 5 == codes
