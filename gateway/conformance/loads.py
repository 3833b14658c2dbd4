"""
Loads that empty a bucket, and the waits that follow a refusal.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from gateway.conformance.charges import is_quiet_since
from gateway.conformance.deployment import Ask
from gateway.conformance.findings import Skip
from gateway.conformance.observations import (
    UNANSWERED,
    Attempt,
    LimitSeen,
    WaitTrial,
)
from gateway.conformance.session import LONGEST_REFILL_S, Session, sleep_until
from gateway.conformance.spending import (
    LOAD_S,
    REFUSAL_ROUNDS,
    TAIL_S,
    VOLLEY,
    WAIT_TRIALS,
    Load,
)

# Between two requests of a worker that was refused: at half, refusals outnumber
# everything else; at double, the refill is watched too coarsely.
REFUSED_PAUSE_S: Final = 0.03
MOST_WORKERS: Final = 32
# Workers that go on after the first refusal.
TAIL_WORKERS: Final = 4
# Each kept promise of a wait costs that wait.
LONGEST_TOLD_WAIT_MS: Final = 5000
# Of a shorter wait, the early fifth is less than an exchange takes.
SHORTEST_EARLY_WAIT_MS: Final = 50
EARLY_SHARE: Final = 0.8
MOST_FAILURES: Final = 5


async def fill_limit(session: Session, load: Load) -> None:
    """Ask until the limit refuses; then wait as told."""
    aim = load.aim
    # One token each: a load is of requests, not of answers.
    ask = Ask(max_tokens=1, prompt_tokens=load.prompt_tokens)
    ask = await session.deployment.sized(ask)
    if aim.kind == "rate":
        await _wait_for_room(session, aim, ask)
    if session.left_s < LOAD_S:
        session.leave_out(aim.dimension, Skip("out-of-time", "no time was left"))
        return
    session.progress.step(f"filling {aim.dimension}")
    await Burst(session, load, ask).drive()
    if aim.kind == "rate" and session.options.wants("header-truth"):
        session.progress.step(f"waiting as told by {aim.dimension}")
        await wait_as_told(session, ask, VOLLEY if aim.of == "requests" else 0)
    await session.until_settled(0)
    await session.look_everywhere()


async def _wait_for_room(session: Session, aim: LimitSeen, ask: Ask) -> None:
    """A full bucket, and enough of the others for it to be the one that is emptied."""
    if aim.of == "requests":
        asks = aim.capacity
    else:
        asks = aim.capacity // max(1, ask.reserve_tokens) + 2
    # A whole refill is worth half of the time that is left, not more.
    most_s = max(LONGEST_REFILL_S, session.left_s / 2)
    if not await session.until_room(asks, asks * ask.reserve_tokens, most_s):
        # Tried all the same: one that lets too much in shows it from any level.
        why = Skip("out-of-time", "the refill before it was too long to wait for")
        session.leave_out(aim.dimension, why)


class Burst:
    """Workers that ask as fast as they are answered, up to the load's cap."""

    def __init__(self, session: Session, load: Load, ask: Ask) -> None:
        self._session = session
        self._most = load.max_asks
        self._ask = ask
        # Admitted or in flight: the cap is on what may be spent.
        self._taken = 0
        self._failures = 0
        self._until_s = time.perf_counter() + LOAD_S
        self._is_refused = False

    async def drive(self) -> None:
        workers = min(self._session.options.concurrency, MOST_WORKERS)
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._work(is_lasting=number < TAIL_WORKERS))

    async def _work(self, *, is_lasting: bool) -> None:
        while time.perf_counter() < self._until_s and self._taken < self._most:
            self._taken += 1
            attempt = await self._session.complete(self._ask)
            self._note(attempt)
            if self._is_refused and not is_lasting:
                return
            if attempt.outcome != "admitted":
                await asyncio.sleep(REFUSED_PAUSE_S)

    def _note(self, attempt: Attempt) -> None:
        self._taken -= attempt.is_limited
        if attempt.outcome in ("rate", "quota", "too_large") and not self._is_refused:
            self._is_refused = True
            self._until_s = min(self._until_s, time.perf_counter() + TAIL_S)
        self._failures += attempt.outcome in UNANSWERED
        if self._failures >= MOST_FAILURES:
            self._until_s = 0.0


async def wait_as_told(session: Session, ask: Ask, volley: int) -> None:
    """Be refused, ask a fifth too early, then exactly when told; a few times."""
    until_s = time.perf_counter() + min(LONGEST_REFILL_S, session.left_s)
    for _ in range(WAIT_TRIALS):
        rejection = await _until_refused(session, ask, volley)
        told_ms = rejection.retry_after_ms if rejection else None
        if rejection is None or told_ms is None:
            return
        due_s = rejection.answered_s + told_ms / 1000
        if told_ms > LONGEST_TOLD_WAIT_MS or due_s > until_s:
            why = f"waits of {told_ms / 1000:g} s are longer than the run can wait"
            session.leave_out("retry-after-ms", Skip("long-waits", why))
            return
        early = None
        if told_ms >= SHORTEST_EARLY_WAIT_MS and _is_final(session, rejection):
            await sleep_until(rejection.answered_s + EARLY_SHARE * told_ms / 1000)
            early = await session.complete(ask)
        await sleep_until(due_s)
        late = await session.complete(ask)
        trial = WaitTrial(rejection=rejection, early=early, late=late)
        session.evidence.waits.append(trial)


def _is_final(session: Session, rejection: Attempt) -> bool:
    """Whether no refund could make the wait shorter than it was told."""
    limit = session.evidence.first.find(rejection.dimension or "")
    if limit is not None and limit.of == "requests":
        return True
    return is_quiet_since(session.evidence.attempts, rejection.sent_s)


async def _until_refused(session: Session, ask: Ask, volley: int) -> Attempt | None:
    """A refusal by a rate, after which nothing of ours was let in."""
    for _ in range(REFUSAL_ROUNDS):
        replica = session.deployment.next_replica()
        attempts = [await session.complete_previewed(ask, replica)]
        if attempts[0].outcome == "admitted" and volley:
            asks = (session.complete(ask) for _ in range(volley))
            attempts += await asyncio.gather(*asks)
        last_s = max((a.answered_s for a in attempts if not a.is_limited), default=0.0)
        for attempt in attempts:
            if attempt.outcome == "rate" and attempt.sent_s > last_s:
                return attempt
        # Those of a volley were sent together: one more finds the bucket empty still.
        if any(attempt.outcome == "rate" for attempt in attempts):
            attempt = await session.complete(ask)
            if attempt.outcome == "rate":
                return attempt
    return None
