"""
The run: what is driven, in the order in which the parts disturb one another least.

First what needs quiet, then streams, then the loads that empty buckets, quotas last.
Nothing is judged here.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.conformance.deployment import Ask
from gateway.conformance.findings import Skip
from gateway.conformance.held import hold_at_one_replica, hold_streams
from gateway.conformance.loads import fill_limit
from gateway.conformance.quiet import ask_in_quiet, ask_one_replica
from gateway.conformance.session import Session
from gateway.conformance.spending import SMALL_MAX_TOKENS, Spending, StreamPlan

# Long enough for a busy workspace to show itself, short enough for nobody to mind.
QUIET_S: Final = 0.5
# Others may ask seldom: at half, their one request is charged to the deployment; at
# double, each run that finds a fault takes that much longer.
WATCH_S: Final = 4.0
WATCH_EVERY_S: Final = 0.25


async def drive(session: Session, spending: Spending) -> None:
    """Every part that the spending provides for; the session keeps what was seen."""
    session.evidence.untried.update(spending.untried)
    session.progress.step("looking at the limits in quiet")
    await session.look_everywhere()
    await asyncio.sleep(QUIET_S)
    await session.look_everywhere()
    small = await session.deployment.sized(Ask(max_tokens=SMALL_MAX_TOKENS))
    await ask_in_quiet(session, small)
    if spending.lone_streams:
        await ask_one_replica(session, small)
        tokens = spending.lone_stream_tokens
        await hold_at_one_replica(session, spending.lone_streams, tokens)
    if spending.streams is not None:
        await _hold_in_time(session, spending.streams)
    for load in spending.loads:
        await fill_limit(session, load)
    session.progress.step("looking at the limits again")
    await session.until_settled(0)
    await session.look_everywhere()


async def _hold_in_time(session: Session, plan: StreamPlan) -> None:
    if session.is_over:
        why = Skip("out-of-time", "no time was left")
        session.leave_out(plan.dimension, why)
        session.leave_out("leaked-leases", why)
    else:
        await hold_streams(session, plan)


async def watch_for_others(session: Session) -> None:
    """Look on without asking for anything: what rises now is somebody else's."""
    session.progress.step("watching for other traffic")
    await session.until_settled(0)
    until_s = time.perf_counter() + WATCH_S
    while time.perf_counter() < until_s:
        await session.look_everywhere()
        await asyncio.sleep(WATCH_EVERY_S)
