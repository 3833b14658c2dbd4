"""
Streams held open: more than the plan allows are tried, and what was let in is dropped.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Final

from gateway.conformance.charges import RELEASE_GRACE_S
from gateway.conformance.deployment import Ask
from gateway.conformance.findings import Skip
from gateway.conformance.observations import DropTrial, Snapshot
from gateway.conformance.session import POLL_S, Session
from gateway.conformance.spending import StreamPlan
from gateway.conformance.streams import OpenStream

# How long an open stream may be silent before it proves nothing.
PROOF_TIMEOUT_S: Final = 3.0


async def hold_streams(session: Session, plan: StreamPlan) -> None:
    """Open more than allowed, drop what was let in, open as many again."""
    ask = Ask(max_tokens=plan.max_tokens, is_stream=True)
    ask = await session.deployment.sized(ask)
    await session.until_room(2 * plan.allowed, plan.allowed * ask.reserve_tokens)
    session.progress.step(f"opening {plan.attempts} streams, {plan.allowed} may be")
    async with AsyncExitStack() as held:
        opened = await open_many(session, plan.attempts, ask, held)
        if len(opened) == plan.attempts:
            # Unless they are found to have been open at once, which is a failure.
            why = Skip("short-answers", "streams ended while others were let in")
            session.leave_out(plan.dimension, why)
        if not opened:
            session.leave_out("leaked-leases", _why_none(session))
            return
        await _prove_open(session, opened)
        await session.look_everywhere(lambda: has_ended(opened))
        session.progress.step(f"dropping {len(opened)} streams")
        await asyncio.gather(*(stream.close() for stream in opened))
        again = min(len(opened), plan.allowed)
        trial = await _reopen(session, again, ask, opened, held)
        session.evidence.drops.append(trial)
    await session.until_settled(0)


async def hold_at_one_replica(session: Session, count: int, max_tokens: int) -> None:
    """
    What is held and reserved at one replica only, all must know.

    Streams, because nothing changes while they are open: what is in flight is a larger
    difference than anything that could refill between two looks.
    """
    session.progress.step("holding streams at one replica, looking at all")
    ask = Ask(max_tokens=max_tokens, is_stream=True)
    ask = await session.deployment.sized(ask)
    await session.until_room(count, count * ask.reserve_tokens)
    async with AsyncExitStack() as held:
        opened = await open_many(session, count, ask, held, replica=0)
        if opened:
            await session.look_everywhere(lambda: has_ended(opened))
    await session.until_settled(0)


def _why_none(session: Session) -> Skip:
    last = session.evidence.attempts[-1]
    if not last.is_limited:
        return Skip("failed-requests", f"no stream was let in: {last.problem}")
    if last.outcome == "concurrency":
        return Skip("other-traffic", "no stream was let in: others hold every place")
    return Skip(
        "hidden-by-another-limit", f"no stream was let in: {last.dimension} refused"
    )


def has_ended(streams: list[OpenStream]) -> bool:
    return not all(stream.is_open for stream in streams)


async def open_many(
    session: Session,
    count: int,
    ask: Ask,
    held: AsyncExitStack,
    replica: int | None = None,
) -> list[OpenStream]:
    """Try so many at once; those that were let in are closed with the stack."""
    opened: list[OpenStream] = []

    async def open_one() -> None:
        stream = await session.open(ask, replica)
        if stream is not None:
            held.push_async_callback(session.close, stream)
            opened.append(stream)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(open_one())
    return opened


async def _prove_open(session: Session, opened: list[OpenStream]) -> None:
    """Read on until each is known to have been open after the last was let in."""
    newest_s = max(stream.attempt.answered_s for stream in opened)
    proof_s = newest_s + session.evidence.margin_s
    await asyncio.gather(
        *(stream.wait_alive_after(proof_s, PROOF_TIMEOUT_S) for stream in opened)
    )


async def _reopen(
    session: Session,
    count: int,
    ask: Ask,
    dropped: list[OpenStream],
    held: AsyncExitStack,
) -> DropTrial:
    """How long the places take to come back, and whether all of them do."""
    dropped_s = max(stream.attempt.ended_s for stream in dropped)
    until_s = dropped_s + RELEASE_GRACE_S
    free_s, still_held = await _until_free(session, until_s)
    session.progress.step(f"opening {count} streams again")
    again: list[OpenStream] = []
    refused = 0
    while len(again) < count:
        first = len(session.evidence.attempts)
        again += await open_many(session, count - len(again), ask, held)
        outcomes = [a.outcome for a in session.evidence.attempts[first:]]
        refused = outcomes.count("concurrency")
        # Refused by anything else, it is not a place that is missing.
        if not refused or time.perf_counter() > until_s:
            break
        await asyncio.sleep(POLL_S)
    return DropTrial(
        dropped=sum(stream.is_dropped for stream in dropped),
        dropped_s=dropped_s,
        free_s=free_s,
        still_held=still_held,
        reopened=len(again),
        refused_again=refused,
    )


async def _until_free(session: Session, until_s: float) -> tuple[float | None, int]:
    """When every replica says that nothing is held; else how much is."""
    while True:
        looks = [await session.look(r) for r in session.deployment.replicas]
        held = max(held_leases(look) for look in looks)
        if not held:
            return looks[-1].answered_s, 0
        if time.perf_counter() > until_s:
            return None, held
        await asyncio.sleep(POLL_S)


def held_leases(look: Snapshot) -> int:
    return max((x.used for x in look.limits if x.kind == "concurrency"), default=0)
