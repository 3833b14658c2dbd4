"""
The port of long jobs: what every store promises, and the values that cross it.

Three things, each of them small and none of them about jobs in particular:

- Records belong to a workspace and are of a kind. They change only from the version
  that was read, so that of two writers one learns that it was late. Their ids sort by
  when they were made, and lists go by ids.
- Collections take each name once, whoever brings it and however often: results that
  come twice count once.
- Work is due at a time. Whoever claims an item holds it by a lease; when the lease ends
  the item is due again, so the work of a replica that died goes on elsewhere. Who works
  on after its lease finds that the item is another's when it renews or ends it.

Time is the store's. Nothing is kept without an end.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

# Hexadecimal, of an id's time: enough for microseconds, for two thousand years.
TIME_DIGITS: Final = 14

# Records of one list, at most, however many are asked for.
MAX_LISTED: Final = 1000
# Of the oldest, those that each new record has looked at: two, so that of what has
# ended less is left with each.
LOOKED_AT: Final = 2


class JobsUnavailable(Exception):
    """The store cannot say, and may or may not have done what it was asked."""

    def __init__(self) -> None:
        super().__init__("the store of jobs cannot say")


class Kept(msgspec.Struct, frozen=True):
    """A record as it was read."""

    record_id: str
    version: int
    body: bytes


class Standing(msgspec.Struct, frozen=True):
    """How a queue stood at one moment."""

    # Held, due, and due later.
    items: int
    # Of these, what is due and nobody holds.
    due: int
    # For how long the first of what is due has been; 0 where nothing is.
    overdue_ms: int


class RecordName(msgspec.Struct, frozen=True):
    """Where a record is: its workspace, its kind, and its id within both."""

    workspace: str
    kind: str
    record_id: str


class JobStore(Protocol):
    """Records, collections and due work; all raise JobsUnavailable."""

    async def create(self, name: RecordName, body: bytes, ttl_ms: int) -> bool:
        """
        Keep a new record for that long; False if there is one of this name.

        The oldest of its kind are forgotten if they have ended.
        """
        ...

    async def read(self, name: RecordName) -> Kept | None:
        """The record, or None."""
        ...

    async def replace(
        self, name: RecordName, body: bytes, version: int, ttl_ms: int | None = None
    ) -> bool:
        """
        Change a record that has this version still.

        It lives for that long from now, or without `ttl_ms` as long as before.
        """
        ...

    async def delete(self, name: RecordName) -> bool:
        """Forget a record; False if there was none."""
        ...

    async def page(
        self,
        workspace: str,
        kind: str,
        *,
        after: str | None = None,
        limit: int = 20,
        newest_first: bool = True,
    ) -> Sequence[Kept]:
        """Records in the order of their ids, from the one after `after` on."""
        ...

    async def count(self, workspace: str, kind: str) -> int:
        """How many records there are; some that have ended may be among them."""
        ...

    async def collect(
        self, workspace: str, collection: str, entries: Mapping[str, bytes], ttl_ms: int
    ) -> int:
        """Add what is not there yet; the number of those that were new."""
        ...

    async def collected(self, workspace: str, collection: str) -> dict[str, bytes]:
        """All that was collected under this name."""
        ...

    async def discard(self, workspace: str, collection: str) -> None:
        """Forget a collection."""
        ...

    async def schedule(self, queue: str, item: str, *, in_ms: int = 0) -> None:
        """
        Have an item worked on in so long, or sooner if that was said before.

        One that somebody holds is due again as soon as it is given back.
        """
        ...

    async def claim(
        self, queue: str, owner: str, *, lease_ms: int, most: int
    ) -> Sequence[str]:
        """Hold items that are due, of which nobody else gets any meanwhile."""
        ...

    async def renew(self, queue: str, item: str, owner: str, *, lease_ms: int) -> bool:
        """Hold it for longer; False if it is another's, or nobody's, by now."""
        ...

    async def put_off(self, queue: str, item: str, owner: str, *, in_ms: int) -> bool:
        """Give it back, to be due in so long; False as for `renew`."""
        ...

    async def finish(self, queue: str, item: str, owner: str) -> bool:
        """Give it back for good, unless it was scheduled again; False as above."""
        ...

    async def standing(self, queue: str) -> Standing:
        """How much work there is, and how late it is; costs the same for any length."""
        ...

    async def scheduled(self, queue: str, *, most: int) -> Sequence[str]:
        """Items, held or not, in the order in which they are due."""
        ...


def time_of_id(prefix: str, record_id: str) -> int:
    """The time that an id was made from; ValueError if it is none of this prefix."""
    return int(record_id.removeprefix(prefix)[:TIME_DIGITS], 16)


def new_record_id(prefix: str, now_ms: int) -> str:
    """An id that sorts by its time, and that nobody can guess."""
    return f"{prefix}{now_ms:0{TIME_DIGITS}x}{secrets.token_hex(10)}"
