"""
What Redis may answer instead of a reply, and what it becomes here.

StoreUnavailable       Redis did not do it, or nobody knows whether it did
ScriptMissing          NOSCRIPT; met inside, by loading the script
Redirected             MOVED or ASK; met inside, by going there
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

Reason: TypeAlias = Literal[
    "timeout",  # no reply in time
    "connection",  # unreachable, or lost before the reply
    "auth",  # the credentials were refused
    "refused",  # not permitted, or not able to write as configured
    "loading",  # started, and still reading its data
    "busy",  # a script runs for too long
    "memory",  # its memory is full and it may evict nothing
    "replica",  # not, or no longer, the master
    "cluster",  # slots are moving or not served
    "overloaded",  # we wait for too many replies already
    "closed",  # the store was closed here
    # A script's own error, a wrong type or argument: a bug of ours, or data that is not
    # ours. It says nothing of what comes next, so it is no outage.
    "error",
]

_REASONS: Final[dict[str, Reason]] = {
    "NOAUTH": "auth",
    "WRONGPASS": "auth",
    "NOPERM": "refused",
    "MISCONF": "refused",
    "NOREPLICAS": "refused",
    "LOADING": "loading",
    "BUSY": "busy",
    "OOM": "memory",
    "READONLY": "replica",
    "MASTERDOWN": "replica",
    "CLUSTERDOWN": "cluster",
    "TRYAGAIN": "cluster",
}


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


class StoreUnavailable(Exception):
    """
    Redis did not do it, or nobody knows whether it did.

    `is_ambiguous` says that the command may have been executed, or a part of it: its
    bytes were handed to the socket, and no reply came or an error half-way.
    """

    def __init__(
        self, reason: Reason, detail: str = "", *, is_ambiguous: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail
        self.is_ambiguous = is_ambiguous

    @property
    def is_outage(self) -> bool:
        """Whether the next call is likely to fail as well."""
        return self.reason != "error"


class ScriptMissing(Exception):
    """This server does not know the script's sha."""


class Redirected(Exception):
    """The slot lives elsewhere; with ASK only this one command should go there."""

    def __init__(self, slot: int, address: Address, *, is_ask: bool) -> None:
        super().__init__(f"slot {slot} is at {address.host}:{address.port}")
        self.slot = slot
        self.address = address
        self.is_ask = is_ask


def to_error(text: str) -> Exception:
    """What an error reply means here."""
    code, _, detail = text.partition(" ")
    if detail.startswith("ACL failure in script"):
        # NOPERM's other face, which some servers also call so: a script may run, and
        # one of its commands may not. What came before that command has been done.
        return StoreUnavailable("refused", detail, is_ambiguous=True)
    if code in _REASONS:
        return StoreUnavailable(_REASONS[code], detail)
    if code == "NOSCRIPT":
        return ScriptMissing(detail)
    if code in ("MOVED", "ASK"):
        slot, _, address = detail.partition(" ")
        host, _, port = address.rpartition(":")
        target = Address(host, int(port))
        return Redirected(int(slot), target, is_ask=code == "ASK")
    # Half of it may have been done.
    return StoreUnavailable("error", text, is_ambiguous=True)
