"""Back-pressure of a client connection."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.flow_control import FlowControl


async def test_one_that_gives_up_waiting_leaves_the_others_waiting() -> None:
    """And the client that catches up afterwards wakes whoever is left."""
    nobody: Any = None
    flow = FlowControl(nobody)
    flow.pause_writing()
    impatient = asyncio.create_task(flow.drain())
    patient = asyncio.create_task(flow.drain())
    await asyncio.sleep(0)

    impatient.cancel()
    await asyncio.wait([impatient])
    assert not patient.done()
    flow.resume_writing()

    async with asyncio.timeout(1):
        await patient


async def test_a_client_that_keeps_up_is_not_waited_for() -> None:
    nobody: Any = None
    flow = FlowControl(nobody)
    flow.pause_writing()
    flow.resume_writing()

    async with asyncio.timeout(1):
        await flow.drain()
