"""The client's end of one exchange, as the server gives it to our handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from gateway.errors import Header

# Where a scope's extensions hold it.
WIRE: Final = "llmtune.wire"


class Wire(Protocol):
    """What is written is on its way at once; nothing here waits but `drain`."""

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The request's, by lower-case name; of several of a name, the last."""
        ...

    @property
    def is_paused(self) -> bool:
        """Whether the client reads slower than is written to it."""
        ...

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        ...

    async def drain(self) -> None:
        """Until it has caught up, or is gone."""
        ...

    def when_gone(self, tell: Callable[[], None] | None) -> None:
        """Call this once the client leaves; None forgets it."""
        ...

    def take_body(self) -> bytes | None:
        """The body, if all of it has arrived and none was taken yet."""
        ...

    def begin(self, status: int, headers: list[Header]) -> None:
        """Write the head of an answer whose length its headers give, or nobody."""
        ...

    def write(self, data: bytes, *, more: bool) -> None:
        """Write some of the body, or with `more` false the last of it."""
        ...

    def push(self, data: bytes) -> bool:
        """As `write` for an event of a stream; False if the client lags behind."""
        ...

    def answer(self, status: int, headers: list[Header], body: bytes) -> None:
        """Write a whole answer, whose headers give its length."""
        ...

    def abort(self) -> None:
        """Cut the connection."""
        ...
