"""As a container's first process, which gets no signal that it does not handle."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.servers.process import ReservedPort, until
from tests.service.test_shutdown import line_with

NOTICE = {"GATEWAY_DRAIN_NOTICE_S": "60"}
ENDED = 128 + signal.SIGTERM


@pytest.fixture
async def gateway() -> AsyncIterator[asyncio.subprocess.Process]:
    """The command in a process namespace of its own."""
    unshare = shutil.which("unshare")
    if sys.platform != "linux" or unshare is None:
        pytest.skip("no unshare here")
    alone = (unshare, "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    can = await asyncio.create_subprocess_exec(
        *alone, "true", stderr=asyncio.subprocess.DEVNULL
    )
    if await can.wait() != 0:
        pytest.skip("no process namespaces for this user")
    port = ReservedPort()
    port.release()
    process = await asyncio.create_subprocess_exec(
        *(*alone, sys.executable, "-m", "gateway", "serve", "--port", f"{port.number}"),
        env={**os.environ, "GATEWAY_DEFAULT_PLAN": "sandbox"} | NOTICE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def first_process_of(unshare: asyncio.subprocess.Process) -> int:
    """The pid, out here, of the namespace's first process, once it hears signals."""
    await until(lambda: bool(_children_of(unshare.pid)), "the first process")
    first = _children_of(unshare.pid)[0]
    status = Path(f"/proc/{first}/status")
    await until(lambda: _handles_sigterm(status), "its handler")
    return first


def _children_of(pid: int) -> list[int]:
    return [
        int(each)
        for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ]


def _handles_sigterm(status: Path) -> bool:
    lines = status.read_text().splitlines()
    caught = next(line for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


async def test_it_ends_while_it_is_still_starting(
    gateway: asyncio.subprocess.Process,
) -> None:
    """A pod that is deleted at once does not wait for its grace period."""
    os.kill(await first_process_of(gateway), signal.SIGTERM)

    assert ENDED == await asyncio.wait_for(gateway.wait(), 10)


async def test_a_second_signal_ends_it_at_once(
    gateway: asyncio.subprocess.Process,
) -> None:
    """There as everywhere, in the middle of the notice that the first began."""
    assert gateway.stdout is not None
    await line_with(gateway.stdout, b'"serving"', 30)
    first = await first_process_of(gateway)
    os.kill(first, signal.SIGTERM)
    await line_with(gateway.stdout, b'"draining"')
    os.kill(first, signal.SIGTERM)

    assert ENDED == await asyncio.wait_for(gateway.wait(), 10)
