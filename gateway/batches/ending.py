"""What follows the end of a batch: it is told, and what it held and left is let go."""

from __future__ import annotations

from gateway.batches.enqueued import Enqueued, UnderWay
from gateway.batches.keeping import Held
from gateway.batches.parts import BatchParts
from gateway.batches.record import BatchRecord
from gateway.files.service import folder_of


async def after_end(parts: BatchParts, held: Held) -> None:
    """
    Tell of the end that is kept, and clean up; LostBatch if another has it.

    Whoever dies in the middle is followed by one who does it again.
    """
    record = held.record
    if not record.is_told:
        await parts.ended(record)
        await Enqueued(parts.jobs).set(record.caller.workspace, record.id, UnderWay())
        record.is_told = True
        await parts.book.save(held)
    # Each time: a driver that was overtaken may have written after the last sweep.
    await parts.desk.sweep(folder_of_batch(record))


def folder_of_batch(record: BatchRecord) -> str:
    """Where its chunks are until it has ended."""
    return f"batches/{folder_of(record.caller.workspace)}/{record.id}"
