"""Which server of a cluster holds a key: hash slots and their owners, without I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from policies.store.errors import Address

# A server that does not know its own name says so in one of these ways; it is then to
# be reached as we reached whoever answered.
_UNNAMED: Final = (None, b"", b"?")


class SlotMap:
    """The owner of each slot, as one server told it and redirections amended it."""

    def __init__(self) -> None:
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS

    @classmethod
    def from_reply(cls, reply: Sequence[Any], asked: Address) -> SlotMap:
        """Read the reply of CLUSTER SLOTS; masters only."""
        slots = cls()
        for first, last, (host, port, *_), *_ in reply:
            name = asked.host if host in _UNNAMED else host.decode()
            owner = Address(name, port)
            slots._owners[first : last + 1] = [owner] * (last + 1 - first)
        return slots

    @property
    def addresses(self) -> frozenset[Address]:
        return frozenset(owner for owner in self._owners if owner is not None)

    def owner(self, slot: int) -> Address | None:
        return self._owners[slot]

    def learn(self, slot: int, owner: Address) -> None:
        """Note what a MOVED said."""
        self._owners[slot] = owner


def slot_of(keys: Sequence[str]) -> int:
    """
    The slot that all these keys share.

    Raises ValueError if they do not: such a call fails on every cluster, so the names
    of the keys are wrong.
    """
    slots = {key_slot(key.encode()) for key in keys}
    if len(slots) != 1:
        raise ValueError(
            f"all keys of a call share one hash tag, but these do not: {keys}"
        )
    return slots.pop()
