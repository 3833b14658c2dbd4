"""
What is measured one request at a time, while nothing else of ours is under way.

Only then is each figure that changes the doing of one known request.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import msgspec

from gateway.conformance.deployment import ANSWER_TIMEOUT_S, Ask, Unusable
from gateway.conformance.observations import (
    UNANSWERED,
    Attempt,
    RemainingTrial,
    SettlementTrial,
)
from gateway.conformance.session import Session
from gateway.conformance.spending import QUIET_ASKS


async def ask_in_quiet(session: Session, ask: Ask) -> None:
    """A few answers, the last one streamed: settlement, headers and previews."""
    session.progress.step("a few requests in quiet")
    await session.until_room(QUIET_ASKS, QUIET_ASKS * ask.reserve_tokens)
    before, _ = await session.until_settled(0)
    attempts = [await _complete(session, ask) for _ in range(QUIET_ASKS - 1)]
    attempts.append(await _read_stream(session, ask))
    after, is_settled = await session.until_settled(0)
    session.evidence.settlements.append(
        SettlementTrial(
            before=before,
            after=after,
            attempts=tuple(a for a in attempts if a.outcome == "admitted"),
            is_settled=is_settled,
        )
    )


async def _complete(session: Session, ask: Ask) -> Attempt:
    replica = session.deployment.next_replica()
    # Settled first, so that only this request's own charge is in the figures.
    before, is_settled = await session.until_settled(replica, grace_s=0)
    attempt = await session.complete_previewed(ask, replica)
    if attempt.outcome in UNANSWERED:
        raise Unusable(f"a plain request fails: {attempt.problem}")
    if attempt.outcome == "admitted" and is_settled:
        trial = RemainingTrial(before=before, attempt=attempt)
        session.evidence.remainings.append(trial)
    return attempt


async def _read_stream(session: Session, ask: Ask) -> Attempt:
    async with AsyncExitStack() as held:
        stream = await session.open(msgspec.structs.replace(ask, is_stream=True))
        attempt = session.evidence.attempts[-1]
        if stream is not None:
            held.push_async_callback(session.close, stream)
            await stream.read_to_end(ANSWER_TIMEOUT_S)
    if attempt.outcome in UNANSWERED:
        raise Unusable(f"a plain stream fails: {attempt.problem}")
    return attempt


async def ask_one_replica(session: Session, ask: Ask) -> None:
    """What only one replica was asked, all must know."""
    session.progress.step("asking one replica, looking at all")
    await session.complete(ask, 0)
    await session.until_settled(0)
    await session.look_everywhere()
