"""
What follows the end of a fine-tune: it is told, and watched where LLMTune goes on.

LLMTune cannot cancel. It may make a model of a job that has ended here, and lists it to
everybody behind the same key; so somebody has to hear its name.
"""

from __future__ import annotations

from gateway.background.caller import principal_of
from gateway.fine_tuning.answers import JobAnswer
from gateway.fine_tuning.asking import ask
from gateway.fine_tuning.keeping import HeldTune, LostTune
from gateway.fine_tuning.parts import TuneParts
from gateway.fine_tuning.record import LOST_AFTER_S, TuneRecord
from gateway.fine_tuning.seeing import see


async def after_end(parts: TuneParts, held: HeldTune) -> int | None:
    """
    Tell of the end that is kept; in how many ms to look again, or None. LostTune.

    Whoever dies in the middle is followed by one who does it again.
    """
    record = held.record
    if not record.is_told:
        await parts.ended(record)
        record.is_told = True
        if not await parts.book.save(held):
            raise LostTune
    is_over = await _claim_model(parts, record)
    if not is_over and parts.now_s() < record.created_at + LOST_AFTER_S:
        return int(parts.poll_s * 1000)
    await parts.book.forget_told(record.caller.workspace, record.id)
    return None


async def _claim_model(parts: TuneParts, record: TuneRecord) -> bool:
    """Have nobody else see what is made of it; whether it has ended at LLMTune, too."""
    workspace = record.caller.workspace
    told = await parts.book.told(workspace, record.id)
    goes_on = record.status == "cancelled" and record.upstream_id is not None
    principal = principal_of(parts.authenticator, record.caller)
    answer = JobAnswer()
    if goes_on and principal is not None:
        credentials = parts.authenticator.credentials(principal)
        answer = await ask(parts, record, credentials)
    seen = see(answer, told, record.model)
    if seen.model_name is not None:
        await parts.owners.claim(workspace, seen.model_name, int(parts.now_s()))
    return not goes_on or seen.status in {"completed", "failed"}
